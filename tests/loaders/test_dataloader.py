"""The loader over a TokenDataset: every sample once, batches that last, arguments that mean
something.
"""

import gc
import inspect
import shutil
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler

from loaders import DataLoader, TokenDataLoader, TokenDataset
from loaders.iterator import TokenIterator
from tests.loaders.support import (
    Modes,
    first_tokens,
    stoker_threads,
    token_dataset,
    token_loader,
    wait_until,
)

SEQ_LEN = 64
SAMPLES = 405


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    folder = tmp_path_factory.mktemp("loader")
    return token_dataset(str(folder / "tokens"), SAMPLES * SEQ_LEN + 17, seq_len=SEQ_LEN)


@pytest.fixture(params=Modes)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return Modes[request.param]


def tokens(loader: TokenDataLoader) -> list[list[int]]:
    return [first_tokens(batch) for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [token for batch in batches for token in batch]


def test_it_says_in_a_line_who_it_is_and_where_it_stands_and_reads_nothing(tmp_path: Path) -> None:
    dataset = token_dataset(str(tmp_path / "tokens"), SAMPLES * SEQ_LEN + 17, seq_len=SEQ_LEN)
    shutil.rmtree(tmp_path / "tokens")
    loader = token_loader(dataset, 2, True, data_parallel_rank=3, data_parallel_size=4)
    head = "TokenDataLoader(batch_size=2, shuffle=True, rank 3 of 4): "
    over = f"over TokenDataset({dataset.uri!r}, seq_len=64, split='train'): 405 samples, "
    over += f"{SAMPLES * SEQ_LEN + 17:,} tokens"
    assert repr(loader) == f"{head}epoch 0, step 0 of 51, {over}"
    loader.skip(54)
    assert repr(loader) == f"{head}epoch 1, step 3 of 51, {over}"
    loader.skip(48)
    assert repr(loader) == f"{head}epoch 1, step 51 of 51, {over}"
    loader.set_epoch(7)
    assert f"{loader}" == f"{head}epoch 7, step 0 of 51, {over}"


EVERY_SAMPLE = list(range(0, SAMPLES * SEQ_LEN, SEQ_LEN))


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_comes_once_an_epoch_with_all_its_tokens(
    dataset: TokenDataset, mode: dict[str, Any], shuffle: bool
) -> None:
    loader = token_loader(dataset, 8, shuffle, **mode)
    seen = []
    for batch in loader:
        assert set(batch) == {"input_ids", "labels"}
        for name in ("input_ids", "labels"):
            assert batch[name].dtype == torch.int64
            assert batch[name].is_contiguous()
            # Token values count up through the stream.
            assert torch.equal(batch[name], batch["input_ids"][:, :1] + torch.arange(SEQ_LEN))
        seen += first_tokens(batch)
    assert sorted(seen) == EVERY_SAMPLE
    assert (seen == EVERY_SAMPLE) is not shuffle
    assert [len(batch) for batch in tokens(loader)] == [8] * 50 + [5]


def test_same_global_batch_on_1_2_4_8_ranks(dataset: TokenDataset, mode: dict[str, Any]) -> None:
    def steps(world: int) -> list[list[int]]:
        ranks = [
            tokens(
                token_loader(
                    dataset,
                    8 // world,
                    True,
                    data_parallel_rank=r,
                    data_parallel_size=world,
                    **mode,
                )
            )
            for r in range(world)
        ]
        return [sorted(t for t in flat(list(step)) if t >= 0) for step in zip(*ranks, strict=True)]

    alone = steps(1)
    assert sorted(flat(alone)) == EVERY_SAMPLE
    for world in (2, 4, 8):
        assert steps(world) == alone


def test_ranks_end_together_with_rows_of_padding(dataset: TokenDataset) -> None:
    last = []
    for rank in range(4):
        loader = token_loader(dataset, 2, True, data_parallel_rank=rank, data_parallel_size=4)
        batches = list(loader)
        assert len(batches) == len(loader) == 51
        last.append(batches[-1])
    # 405 = 50 * 8 + 5: one rank has two samples left, the others one and a row of padding.
    assert [len(batch["input_ids"]) for batch in last] == [2, 2, 2, 2]
    padding = [batch for batch in last if (batch["labels"][1] == -100).all()]
    assert len(padding) == 3
    assert all((batch["input_ids"][1] == 0).all() for batch in padding)
    assert not any((batch["labels"][0] == -100).any() for batch in last)


def test_drop_last_leaves_out_the_short_batch_on_every_rank(dataset: TokenDataset) -> None:
    for world in (1, 4):
        for rank in range(world):
            loader = token_loader(
                dataset, 8 // world, True, drop_last=True,
                data_parallel_rank=rank, data_parallel_size=world,
            )  # fmt: skip
            assert len(loader) == len(list(loader)) == 50


def test_fewer_samples_than_ranks_still_give_every_rank_a_step(tmp_path: Any) -> None:
    dataset = token_dataset(str(tmp_path / "tokens"), 3 * SEQ_LEN, seq_len=SEQ_LEN)
    seen = []
    for rank in range(8):
        (batch,) = token_loader(dataset, 2, data_parallel_rank=rank, data_parallel_size=8)
        seen += first_tokens(batch)
    assert sorted(seen) == [-1] * 5 + EVERY_SAMPLE[:3]


def test_epochs_differ_and_come_back(dataset: TokenDataset, mode: dict[str, Any]) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    epochs = [tokens(loader) for _ in range(3)]
    assert all(sorted(flat(epoch)) == EVERY_SAMPLE for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    loader.set_epoch(1)
    assert tokens(loader) == epochs[1]
    assert tokens(token_loader(dataset, 8, True, seed=1, **mode)) != epochs[0]


def test_batches_kept_for_a_whole_epoch_are_unchanged(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    kept, copies = [], []
    loader = token_loader(dataset, 8, True, **mode)
    for _ in range(2):
        for batch in loader:
            kept.append(batch)
            copies.append({name: tensor.clone() for name, tensor in batch.items()})
    for batch, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(batch[name], copy[name]) for name in copy)


def test_one_kept_tensor_keeps_its_values_while_memory_is_used_again(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    row = next(iter(loader))["labels"][3, 5:9]
    before = row.tolist()
    for _ in range(3):
        list(loader)
    assert row.tolist() == before


def test_memory_of_batches_is_used_again(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    places = set()
    for _ in range(6):
        places |= {batch["input_ids"].untyped_storage().data_ptr() for batch in loader}
    assert len(places) <= 16  # 6 epochs of 2 tensors for each of 7 chunks


def test_labels_do_not_alias_input_ids(dataset: TokenDataset) -> None:
    for batch in token_loader(dataset, 8, True):
        before = batch["input_ids"].clone()
        batch["labels"].fill_(-100)
        assert torch.equal(batch["input_ids"], before)


def test_a_peek_does_not_move_the_epoch(dataset: TokenDataset, mode: dict[str, Any]) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    expected = tokens(token_loader(dataset, 8, True, **mode))
    assert first_tokens(next(iter(loader))) == expected[0]
    assert [first_tokens(batch) for batch in islice(loader, 7)] == expected[:7]
    assert tokens(loader) == expected
    assert loader.state_dict()["epoch"] == 1


def test_a_peek_after_restoring_starts_where_it_was_restored(dataset: TokenDataset) -> None:
    expected = tokens(token_loader(dataset, 8, True))
    loader = token_loader(dataset, 8, True)
    loader.load_state_dict({**loader.state_dict(), "position": 80})
    next(iter(loader))
    loader.set_epoch(0)  # the epoch it is in
    assert tokens(loader) == expected[10:]
    loader.set_epoch(0)
    assert tokens(loader) == expected


def test_taking_exactly_all_batches_ends_the_epoch(dataset: TokenDataset) -> None:
    loader, other = token_loader(dataset, 8, True), token_loader(dataset, 8, True)
    for _ in range(2):
        by_steps = [first_tokens(batch) for batch in islice(loader, len(loader))]
        assert by_steps == tokens(other)


def test_an_older_iterator_does_not_move_the_state(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    old = iter(loader)
    new = iter(loader)
    next(new)
    list(old)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 8)


def test_a_second_loader_moves_nothing_of_the_first(dataset: TokenDataset) -> None:
    training, evaluation = token_loader(dataset, 8, True), token_loader(dataset, 4)
    expected = tokens(token_loader(dataset, 8, True))
    seen = []
    for step, batch in enumerate(training):
        seen.append(first_tokens(batch))
        if step % 20 == 0:
            before = training.state_dict()
            list(evaluation)
            assert training.state_dict() == before
    assert seen == expected


def test_it_is_a_torch_loader_prepared_for_accelerate(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True, num_workers=4)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert isinstance(loader, TokenDataLoader)
    assert isinstance(loader.sampler, DistributedSampler)
    assert isinstance(loader.batch_sampler, BatchSampler)
    assert loader._is_accelerate_prepared is True
    assert (loader.batch_size, loader.num_workers, loader.drop_last) == (8, 0, False)
    assert len(loader) == 51


@pytest.mark.parametrize("position", [0, 88])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [1, 4])
def test_rebuilt_as_a_torch_loader_it_yields_the_same(
    dataset: TokenDataset, position: int, drop_last: bool, world: int
) -> None:
    for rank in range(world):
        loader = token_loader(
            dataset, 2, True, drop_last=drop_last, data_parallel_rank=rank, data_parallel_size=world
        )
        loader.load_state_dict({**loader.state_dict(), "epoch": 2, "position": position})
        rebuilt = torch.utils.data.DataLoader(
            loader.dataset, loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last
        )
        for ours, torchs in zip(loader, rebuilt, strict=True):
            assert all(torch.equal(ours[name], torchs[name]) for name in ours)


def test_the_samplers_epoch_is_the_loaders(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    loader.sampler.set_epoch(4)
    assert loader.state_dict()["epoch"] == loader.sampler.epoch == 4
    assert len(loader.sampler) == SAMPLES


def test_threads_are_no_processes_and_torch_does_not_warn(dataset: TokenDataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = token_loader(dataset, 8, True, num_workers=64, pin_memory=True, prefetch_factor=3)
        assert len(tokens(loader)) == 51


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sampler": SequentialSampler(range(3))}, "sampler= does not go .* shuffle=, seed="),
        ({"batch_sampler": [[1]]}, r"batch_sampler= does not go .* torch.utils.data.DataLoader\("),
        ({"collate_fn": list}, "collate_fn= does not go .* in the training loop"),
        ({"generator": torch.Generator()}, "generator= does not go .* give seed= instead"),
        ({"worker_init_fn": print}, "worker_init_fn= does not go .* no worker processes"),
        ({"multiprocessing_context": "fork"}, "multiprocessing_context= does not go .* threads"),
        ({"batch_size": None}, "batch_size=None does not go .* index the dataset"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"num_workers": -1}, "num_workers must not be negative"),
        ({"timeout": -1}, "timeout must not be negative"),
        ({"prefetch_factor": 0}, "prefetch_factor must be at least 1, not 0"),
        ({"cache_dir": "c", "cache_bytes": 0}, "cache_bytes must be at least 1, not 0"),
        ({"stall_warning_s": -1}, "stall_warning_s must not be negative"),
        ({"pin_memory_device": "cpu"}, "pinned for CUDA devices only"),
        ({"lanes": 0}, "lanes must be at least 1"),
        ({"max_seq_len": 0}, "max_seq_len must be at least 1, not 0"),
        ({"data_parallel_rank": 1}, "give both or neither"),
        ({"data_parallel_rank": 0, "data_parallel_size": 7}, "7 data-parallel ranks cannot share"),
        ({"data_parallel_rank": 8, "data_parallel_size": 8}, "rank 8 is not one of the 8 ranks"),
        ({"prefetch_bytes": 4096}, r"prefetch_bytes=4096 is too small: .* at least \d+"),
    ],
)  # fmt: skip
def test_an_argument_that_means_nothing_here_says_what_to_use(
    dataset: TokenDataset, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        token_loader(dataset, **{"batch_size": 8, **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": "8"}, "batch_size must be a whole number, not '8', a str"),
        ({"num_workers": 1.5}, "num_workers must be a whole number, not 1.5, a float"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"lanes": 960.0}, "lanes must be a whole number, not 960.0, a float"),
        ({"max_seq_len": "64"}, "max_seq_len must be a whole number"),
        ({"data_parallel_rank": "0", "data_parallel_size": 1}, "data_parallel_rank must be"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number_is_refused_where_it_is_given(
    dataset: TokenDataset, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        token_loader(dataset, **{"batch_size": 8, **arguments})


def test_steps_and_epochs_that_are_none_are_refused_before_they_are_saved(
    dataset: TokenDataset,
) -> None:
    loader = token_loader(dataset, np.int64(8), True, seed=np.int32(3))
    before = loader.state_dict()
    with pytest.raises(ValueError, match="epoch must not be negative, not -1"):
        loader.set_epoch(-1)
    with pytest.raises(TypeError, match=r"epoch must be a whole number, not 0\.5"):
        loader.set_epoch(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"steps must be a whole number, not 1\.5"):
        loader.skip(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"seq_len must be a whole number, not 128\.0"):
        TokenDataset(dataset.uri, 128.0)  # type: ignore[arg-type]
    assert loader.state_dict() == before
    assert type(before["seed"]) is int


def test_the_bytes_named_by_the_refusal_are_enough(dataset: TokenDataset) -> None:
    for lanes in (8, 24):
        with pytest.raises(ValueError, match="too small") as caught:
            token_loader(dataset, 8, True, lanes=lanes, prefetch_bytes=1)
        needed = int(str(caught.value).split("at least ")[1].split(",")[0])
        loader = token_loader(dataset, 8, True, lanes=lanes, prefetch_bytes=needed)
        assert sorted(flat(tokens(loader))) == EVERY_SAMPLE
        with pytest.raises(ValueError, match="too small"):
            token_loader(dataset, 8, True, lanes=lanes, prefetch_bytes=needed - 1)


def test_every_argument_of_torchs_is_explained() -> None:
    explained = TokenDataLoader.__doc__ or ""
    for name in inspect.signature(DataLoader.__init__).parameters:
        if name not in ("self", "dataset"):
            assert f"{name}:" in explained or f"{name}," in explained, name


def test_rank_and_size_come_from_torchruns_environment(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    from_environment = tokens(token_loader(dataset, 2, True))
    given = token_loader(dataset, 2, True, data_parallel_rank=2, data_parallel_size=4)
    assert from_environment == tokens(given)
    assert len(tokens(token_loader(dataset, 2, data_parallel_rank=0, data_parallel_size=1))) == 203
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(ValueError, match="RANK='two'"):
        token_loader(dataset, 2)


def test_a_class_derived_for_foreign_datasets_says_what_to_derive_from(
    dataset: TokenDataset,
) -> None:
    class Mine(DataLoader):
        pass

    class Ours(TokenDataLoader):
        pass

    with pytest.raises(TypeError, match=r"derive it from loaders\.TokenDataLoader"):
        Mine(dataset, 8)
    assert len(list(Ours(dataset, 8))) == 51


@pytest.mark.parametrize("end", ["exhausted", "deleted", "closed"])
def test_threads_end_with_their_iterator(
    dataset: TokenDataset, mode: dict[str, Any], end: str
) -> None:
    gc.collect()
    wait_until(lambda: not stoker_threads())
    iterator = iter(token_loader(dataset, 8, True, prefetch_factor=2, **mode))
    next(iterator)
    assert stoker_threads()
    if end == "exhausted":
        list(iterator)
    elif end == "closed":
        iterator.close()  # type: ignore[attr-defined]
    else:
        gone = weakref.ref(iterator)
        gc.disable()
        try:
            del iterator
            assert gone() is None  # no cycle keeps it until the garbage is collected
        finally:
            gc.enable()
    wait_until(lambda: not stoker_threads())


def test_memory_for_tokens_stays_within_prefetch_bytes(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True, lanes=8, prefetch_bytes=20_000)
    most = 0
    iterator: Iterator[Any] = iter(loader)
    for _ in iterator:
        stats = loader.stats()
        assert stats["buffer_used_bytes"] <= stats["buffer_bytes"] <= 20_000
        most = max(most, stats["buffer_used_bytes"])
    assert most > 0


def test_prefetch_factor_bounds_the_batches_that_wait(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 4, True, num_workers=3, prefetch_factor=2)
    iterator = iter(loader)
    next(iterator)
    wait_until(lambda: loader.stats()["batches_ready"] > 3)
    time.sleep(0.05)  # nothing to wait for: it must not grow
    assert loader.stats()["batches_ready"] <= 6
    assert len(list(iterator)) == 101


def test_stats_and_timeline_say_what_happened(dataset: TokenDataset, mode: dict[str, Any]) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    list(loader)
    stats = loader.stats()
    assert (stats["batches"], stats["tokens"]) == (51, SAMPLES * SEQ_LEN)
    assert stats["bytes_read"] >= SAMPLES * SEQ_LEN * 4
    assert stats["requests"] > 0
    assert stats["retries"] == stats["timeouts"] == stats["corrupt_rereads"] == 0
    assert stats["wait_seconds"] > 0
    assert stats["first_batch_seconds"] > 0
    steps = loader.timeline()
    assert steps["step"].tolist() == list(range(51))
    for earlier, later in (
        ("asked", "arrived"),
        ("arrived", "assembled"),
        ("assembled", "queued"),
        ("queued", "delivered"),
    ):
        assert (steps[earlier] <= steps[later]).all()
    assert (np.diff(steps["delivered"]) >= 0).all()
    assert abs(steps["waited"].sum() / 1e9 - stats["wait_seconds"]) < 1e-6


def test_a_resident_split_is_read_once_for_all_epochs(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    list(loader)
    read = loader.stats()["bytes_read"]
    list(loader)
    assert loader.stats()["bytes_read"] == read


def test_two_iterations_at_once_do_not_disturb_each_other(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    expected = tokens(token_loader(dataset, 8, True, **mode))
    pairs = [
        (first_tokens(a), first_tokens(b)) for a, b in zip(iter(loader), iter(loader), strict=True)
    ]
    assert [a for a, _ in pairs] == [b for _, b in pairs] == expected


def test_many_threads_reading_small_memory_never_deadlock(dataset: TokenDataset) -> None:
    for workers in (1, 2, 16):
        for batch_size in (1, 8, 100, 405):
            loader = token_loader(
                dataset, batch_size, True, lanes=24, num_workers=workers,
                prefetch_bytes=(24 + batch_size) * SEQ_LEN * 4, timeout=60,
            )  # fmt: skip
            assert sorted(flat(tokens(loader))) == EVERY_SAMPLE
    assert threading.active_count() < 60


def test_what_an_iteration_had_is_gone_without_a_garbage_collection(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    gc.collect()
    gc.disable()
    try:
        for taken in (1, len(loader) + 1):
            iterator = iter(loader)
            assert isinstance(iterator, TokenIterator)
            held = iterator.assembler, iterator.assembler.fetcher
            gone = [weakref.ref(one) for one in held]
            deque(islice(iterator, taken), maxlen=0)
            del iterator, held
            wait_until(lambda gone=gone: not any(one() for one in gone))  # type: ignore[misc]
    finally:
        gc.enable()
