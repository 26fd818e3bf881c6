"""labels="next": each label is the token behind, over the ends of rows, blocks and shards."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import TokenDataset
from tests.loaders.restoring import (
    goes_on_elsewhere,
    ranks,
    restored,
    restores_at_every_step,
    sorted_tokens,
)
from tests.loaders.support import Modes, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
BATCH = 8
SAMPLES = 40 * BATCH + 5  # an epoch of 41 steps, the last one short
TOKENS = SAMPLES * SEQ_LEN  # the last sample is the end of the stream
MASK = (np.random.default_rng(0).random(TOKENS) < 0.7).astype(np.uint8)


@pytest.fixture(scope="module", params=["all", "masked", "masked on s3"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("labels") / "tokens")
    if request.param == "masked on s3":
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-labels") + "/tokens"
    token_dataset(uri, TOKENS, seq_len=SEQ_LEN, mask=None if request.param == "all" else MASK)
    return uri


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("unmasked") / "tokens")
    token_dataset(uri, TOKENS, seq_len=SEQ_LEN)
    return uri


def following(ids: torch.Tensor, masked: bool) -> torch.Tensor:
    """The labels of tokens whose values are their places in the stream."""
    after = ids + 1
    counts = torch.from_numpy(MASK)[after.clamp(max=TOKENS - 1)] == 1
    return torch.where((after < TOKENS) & (counts | (not masked)), after, -100)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("mode", Modes)
def test_each_label_is_the_next_token_if_that_counts(uri: str, mode: str, shuffle: bool) -> None:
    dataset = TokenDataset(uri, SEQ_LEN, labels="next")
    masked = dataset.stream.dataset.manifest.loss_mask
    first_tokens = []
    for batch in token_loader(dataset, BATCH, shuffle, **Modes[mode]):
        assert torch.equal(batch["labels"], following(batch["input_ids"], masked))
        first_tokens += batch["input_ids"][:, 0].tolist()
    assert sorted(first_tokens) == list(range(0, TOKENS, SEQ_LEN))
    for sample in [*dataset[3:400:37], dataset[-1]]:
        assert torch.equal(sample["labels"], following(sample["input_ids"], masked))
    assert dataset[-1]["labels"][-1] == -100


@settings(max_examples=30)
@given(tokens=st.integers(8, 400), seq_len=st.integers(1, 8), data=st.data())
def test_every_token_but_the_first_is_a_label_once(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, seq_len: int, data: st.DataObject
) -> None:
    uri = str(tmp_path_factory.mktemp("every") / "tokens")
    token_dataset(uri, tokens, seq_len=seq_len)
    dataset = TokenDataset(uri, seq_len, labels="next")
    batch, lanes = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 2, 4]))
    loader = token_loader(dataset, batch, data.draw(st.booleans()), lanes=lanes)
    last = min(len(dataset) * seq_len, tokens - 1)
    assert sorted_tokens([[batch] for batch in loader]) == list(range(1, last + 1))


@pytest.mark.parametrize("mode", Modes)
def test_a_restored_loader_gives_the_same_next_labels_at_every_step(
    unmasked: str, mode: str
) -> None:
    dataset = TokenDataset(unmasked, SEQ_LEN, labels="next")
    restores_at_every_step(ranks(dataset, 2, BATCH, shuffle=True, **Modes[mode]))


@pytest.mark.parametrize(("before", "after"), [(32, 64), (64, 16)])
def test_labels_count_once_when_seq_len_changes(unmasked: str, before: int, after: int) -> None:
    options: dict[str, Any] = {"shuffle": True, "lanes": 8, "max_seq_len": 64}
    short, long = (
        ranks(TokenDataset(unmasked, n, labels="next"), 1, BATCH * 64 // n, **options)
        for n in (before, after)
    )
    goes_on_elsewhere(short, long)


def test_labels_may_change_between_runs(unmasked: str) -> None:
    same = token_loader(TokenDataset(unmasked, SEQ_LEN), BATCH, True)
    rest = iter(same)
    list(islice(rest, 20))
    following_on = ranks(TokenDataset(unmasked, SEQ_LEN, labels="next"), 1, BATCH, shuffle=True)
    (loader,) = restored(following_on, same.state_dict())
    for batch, other in zip(loader, rest, strict=True):
        assert torch.equal(batch["input_ids"], other["input_ids"])


def test_torchs_own_loader_gives_the_same_batches(unmasked: str) -> None:
    dataset = TokenDataset(unmasked, SEQ_LEN, labels="next")
    loader = token_loader(dataset, BATCH, True)
    theirs = torch.utils.data.DataLoader(dataset, BATCH, sampler=loader.sampler)
    for batch, other in zip(loader, theirs, strict=True):
        assert torch.equal(batch["labels"], other["labels"])


def test_rows_of_padding_have_no_labels(unmasked: str) -> None:
    dataset = TokenDataset(unmasked, SEQ_LEN, labels="next")
    make = ranks(dataset, 4, BATCH, shuffle=True)
    last = [list(loader)[-1] for loader in make()]
    padding = [batch for batch in last if (batch["labels"] == -100).all(dim=1).any()]
    assert len(padding) == 3
    for batch in padding:
        assert not batch["input_ids"][-1].any()


def test_other_labels_are_refused_with_those_there_are(unmasked: str) -> None:
    with pytest.raises(ValueError, match=r"labels='shifted': give 'same' .* or 'next'"):
        TokenDataset(unmasked, SEQ_LEN, labels="shifted")  # type: ignore[arg-type]
