"""What frameworks do to a loader: seen from here, without them (docs/examples run inside them)."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.utils.data
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import BatchSampler

from loaders import Mixture, TokenDataset
from tests.loaders.mixtures import mixture_loader
from tests.loaders.support import Modes, first_tokens, token_dataset, token_loader

SEQ_LEN = 32
BATCH = 4
SAMPLES = 90


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    uri = str(tmp_path_factory.mktemp("frameworks") / "tokens")
    return token_dataset(uri, SAMPLES * SEQ_LEN, seq_len=SEQ_LEN)


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """torch.distributed, as it looks on rank 0 of 2."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("mode", Modes)
def test_set_epoch_takes_an_iterator_along_that_has_given_nothing(
    dataset: TokenDataset, mode: str
) -> None:
    """As torch's do, and as Lightning does it when it resumes at the end of an epoch."""
    loader = token_loader(dataset, BATCH, shuffle=True, **Modes[mode])
    torchs = torch.utils.data.DataLoader(dataset, BATCH, sampler=loader.sampler)
    ours, theirs = iter(loader), iter(torchs)
    loader.set_epoch(3)
    rows = [first_tokens(batch) for batch in ours]
    loader.set_epoch(3)
    assert rows == [first_tokens(batch) for batch in theirs]
    assert loader.state_dict()["epoch"] == 3


def test_restored_at_the_end_of_an_epoch_it_goes_to_the_next(dataset: TokenDataset) -> None:
    """Lightning makes the iterator where nothing is left, and sets the epoch then."""
    saved = token_loader(dataset, BATCH, shuffle=True)
    saved.skip(len(saved))
    loader = token_loader(dataset, BATCH, shuffle=True)
    loader.load_state_dict(saved.state_dict())
    at_the_end = iter(loader)
    loader.set_epoch(1)
    seen = [first_tokens(batch) for batch in islice(at_the_end, 5)]
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 5 * BATCH)
    other = token_loader(dataset, BATCH, shuffle=True)
    other.set_epoch(1)
    assert seen == [first_tokens(batch) for batch in islice(other, 5)]


def test_set_epoch_leaves_an_iterator_alone_that_has_begun(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, BATCH, shuffle=True)
    whole = [first_tokens(batch) for batch in loader]
    loader.set_epoch(0)
    begun = iter(loader)
    seen = [first_tokens(next(begun))]
    loader.set_epoch(1)
    assert seen + [first_tokens(batch) for batch in begun] == whole
    assert loader.state_dict()["position"] == 0


def test_the_epoch_can_be_set_by_the_batch_sampler(dataset: TokenDataset) -> None:
    """Where Trainer looks for `set_epoch`, when it skips batches inside an epoch."""
    loader = token_loader(dataset, BATCH, shuffle=True)
    sampler = loader.batch_sampler
    assert isinstance(sampler, BatchSampler)
    sampler.set_epoch(2)  # type: ignore[attr-defined]
    rebuilt = torch.utils.data.DataLoader(dataset, batch_sampler=sampler)
    other = token_loader(dataset, BATCH, shuffle=True)
    other.set_epoch(2)
    assert [first_tokens(batch) for batch in rebuilt] == [first_tokens(batch) for batch in other]


def test_a_loader_made_before_there_were_ranks_is_refused(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    guesses = [token_loader(dataset, BATCH), mixture_loader(Mixture({"a": (dataset, 1)}), BATCH)]
    meant = token_loader(dataset, BATCH, data_parallel_rank=0, data_parallel_size=1)
    request.getfixturevalue("two_ranks")
    for guessed in guesses:
        for start in (partial(iter, guessed), guessed.repeat):
            with pytest.raises(RuntimeError, match=r"rank 0 of 1, .* has 2 ranks"):
                start()
    assert len(list(meant)) == -(-SAMPLES // BATCH)
    assert len(list(token_loader(dataset, BATCH))) == -(-SAMPLES // (2 * BATCH))


def test_accelerate_leaves_the_loader_and_keeps_its_place(
    dataset: TokenDataset, tmp_path: Path
) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = token_loader(dataset, BATCH, shuffle=True)
    assert accelerator.prepare(loader) is loader
    batches = loader.repeat()
    for _ in range(30):
        next(batches)
    accelerator.save_state(str(tmp_path))
    following = [first_tokens(batch) for batch in islice(batches, 5)]
    accelerator.load_state(str(tmp_path))
    assert [first_tokens(batch) for batch in islice(loader.repeat(), 5)] == following
