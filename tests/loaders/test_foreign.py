"""Over any dataset but a TokenDataset, DataLoader is torch's."""

import inspect
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import (
    BatchSampler,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from loaders import DataLoader

Torch = torch.utils.data.DataLoader
DATA = TensorDataset(torch.arange(37), torch.arange(37) * 2.0)


class Stream(IterableDataset[int]):
    """Numbers, split among the workers."""

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return iter(range(first, 20, step))


class Squares(Dataset[int]):
    """Fetches whole batches, and says which process did."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        return index * index

    def __getitems__(self, indices: list[int]) -> list[int]:
        return [index * index for index in indices]


class WorkerIds(Dataset[tuple[int, int]]):
    """What a worker's init function left behind, and its process."""

    mark = -1

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int]:
        return WorkerIds.mark, os.getpid()


def set_mark(worker: int) -> None:
    WorkerIds.mark = 100 + worker


def add_one(rows: list[Any]) -> list[Any]:
    return [row[0] + 1 for row in rows]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


# What starts Python anew takes seconds; "workers" does the same by forks.
SLOW = {"spawned"}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (DATA, {}),
    "batches": (DATA, {"batch_size": 5}),
    "drop_last": (DATA, {"batch_size": 5, "drop_last": True}),
    "shuffle": (DATA, {"batch_size": 5, "shuffle": True}),
    "no batches": (DATA, {"batch_size": None}),
    "sampler": (DATA, {"batch_size": 4, "sampler": [3, 1, 2, 0, 9]}),
    "batch sampler": (DATA, {"batch_sampler": BatchSampler(SequentialSampler(DATA), 7, True)}),
    "weights": (DATA, {"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * 37, 20)}),
    "collate": (DATA, {"batch_size": 3, "collate_fn": add_one}),
    "workers": (DATA, {"batch_size": 5, "num_workers": 2}),
    "prefetch": (DATA, {"batch_size": 5, "num_workers": 2, "prefetch_factor": 4}),
    "spawned": (Squares(), {"num_workers": 1, "multiprocessing_context": "spawn"}),
    "stream": (Stream(), {"batch_size": 6}),
    "stream workers": (Stream(), {"batch_size": 6, "num_workers": 2}),
    "getitems": (Squares(), {"batch_size": 5}),
    "a list": (list(range(10)), {"batch_size": 3}),
    "timeout": (DATA, {"batch_size": 5, "num_workers": 1, "timeout": 60}),
    "any order": (DATA, {"batch_size": 5, "num_workers": 1, "in_order": False}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES],
)
def test_batches_are_torchs(case: str) -> None:
    dataset, arguments = CASES[case]
    seen = []
    for cls in (Torch, DataLoader):
        torch.manual_seed(5)
        loader = cls(dataset, **arguments)
        seen.append((list(loader), list(loader)))
    assert same(seen[0], seen[1])


def test_generator_decides_the_shuffle_as_in_torch() -> None:
    seen = []
    for cls in (Torch, DataLoader):
        generator = torch.Generator().manual_seed(11)
        seen.append(list(cls(DATA, 5, shuffle=True, generator=generator)))
    assert same(seen[0], seen[1])


def test_it_is_a_torch_loader_with_torchs_parts() -> None:
    loader, torchs = DataLoader(DATA, 5, True), Torch(DATA, 5, True)
    assert isinstance(loader, Torch)
    assert isinstance(loader.sampler, RandomSampler)
    assert isinstance(loader.batch_sampler, BatchSampler)
    assert len(loader) == len(torchs) == 8
    assert type(iter(torchs)) in type(iter(loader)).__mro__
    for name in ("batch_size", "num_workers", "drop_last", "collate_fn", "dataset", "timeout"):
        assert getattr(loader, name) == getattr(torchs, name)


def test_frameworks_that_ask_find_no_state_and_no_epoch() -> None:
    loader = DataLoader(DATA, 5)
    for name in ("state_dict", "load_state_dict", "set_epoch", "timeline"):
        assert not hasattr(loader, name)
    assert not getattr(loader, "_is_accelerate_prepared", False)


def test_torchs_arguments_stand_in_torchs_order_with_torchs_defaults() -> None:
    ours = inspect.signature(DataLoader.__init__).parameters
    torchs = inspect.signature(Torch.__init__).parameters
    assert list(ours)[: len(torchs)] == list(torchs)
    for name, parameter in torchs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind)
    assert all(
        ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in set(ours) - set(torchs)
    )


def test_workers_are_processes_that_ran_worker_init_fn_and_persist() -> None:
    loader = DataLoader(
        WorkerIds(), 2, num_workers=2, worker_init_fn=set_mark, persistent_workers=True
    )
    epochs = []
    for _ in range(2):
        marks, processes = zip(*loader, strict=True)
        assert set(torch.cat(marks).tolist()) == {100, 101}
        epochs.append(set(torch.cat(processes).tolist()))
    assert epochs[0] == epochs[1]
    assert os.getpid() not in epochs[0]


def test_an_error_in_a_worker_keeps_its_type() -> None:
    class Broken(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            raise KeyError(f"row {index}")

    with pytest.raises(KeyError, match="row 0"):
        list(DataLoader(Broken(), num_workers=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_stats_count_batches_and_waits(workers: int) -> None:
    loader = DataLoader(DATA, 5, num_workers=workers, persistent_workers=workers > 0)
    assert loader.stats() == {"batches": 0, "wait_seconds": 0.0, "first_batch_seconds": None}
    list(loader)
    list(loader)
    stats = loader.stats()
    assert stats["batches"] == 16
    assert stats["first_batch_seconds"] > 0
    assert 0 < stats["wait_seconds"] < 60


def test_what_is_stokers_alone_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ValueError, match=r"seed= is for a TokenDataset; this is a TensorDataset"):
        DataLoader(DATA, 5, seed=3)


def test_randomness_outside_is_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    list(DataLoader(DATA, 2))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
