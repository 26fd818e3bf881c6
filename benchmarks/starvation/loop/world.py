"""The ranks of a run: processes that train together, each on its share of the data.

A process is one of several where its launcher said so: torchrun, or `--ranks`, see `launch.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from benchmarks.starvation.loop.measure import Plan
from shards.errors import StokerError

# Where `launch.py` keeps the store by which its ranks find each other, "host:port".
STORE = "STOKER_RANKS_STORE"
# A rank that is told to stop has run so many steps beyond rank 0's at most: a device takes fewer.
AHEAD = 8
# Ranks ask whether to stop so long before their own time is over: clocks and starts differ.
EARLY_NS = 5_000_000_000
TIMEOUT = timedelta(seconds=300)

T = TypeVar("T")


class Store(Protocol):
    """Words that all ranks can read: what a run uses of torch's stores."""

    def set(self, key: str, value: str) -> object:
        """For all ranks."""

    def get(self, key: str) -> bytes:
        """Waits until there is one."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of them are there."""


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size`; `backend` by which they talk, "" for one alone."""

    rank: int = 0
    size: int = 1
    backend: str = ""
    store: Store | None = None

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """This rank's of `parts`, dealt in turns; all of them where some rank would have none."""
        return parts[self.rank :: self.size] if len(parts) >= self.size else parts

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: float) -> float:
        """Of `value` over all ranks; every rank calls it."""
        if self.size == 1:
            return value
        device = "cuda" if self.backend == "nccl" else "cpu"
        total = torch.tensor([value], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total) / self.size

    def plan(self, plan: Plan, run: str) -> Plan:
        """`plan` with the same number of steps on every rank; `run`: a name that none had yet."""
        if self.size == 1:
            return plan
        return CommonPlan(plan.steps, plan.warmup, plan.seconds, world=self, run=run)


@dataclass(frozen=True)
class CommonPlan(Plan):
    """Ranks wait for each other in every step, so all run the same ones, or one waits forever.

    All steps of the plan and its allowance, in which MSER-5 may find the warm-up. If time is over
    before, rank 0 names the step after which all stop, one that no rank can have begun.
    """

    world: World = field(default_factory=World)
    run: str = ""

    def over(self, ends: Sequence[int], began: int) -> bool:
        """See `Plan.over`."""
        if len(ends) >= self.steps + self.allowance:
            return True
        store, key, left = self.world.store, f"stop/{self.run}", 2e9 * self.seconds
        left -= ends[-1] - began
        if left > EARLY_NS or store is None:
            return False
        if self.world.rank == 0 and left <= 0 and not store.check([key]):
            store.set(key, str(len(ends) + AHEAD))
        return store.check([key]) and len(ends) >= int(store.get(key))


def told() -> tuple[int, int] | None:
    """Rank and world size as the launcher said, or None.

    Raises:
        StokerError: what the environment says are no such numbers.
    """
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None:
        return None
    try:
        found = int(rank), int(size)
    except ValueError:
        found = (-1, 0)
    if not 0 <= found[0] < found[1]:
        raise StokerError(
            f"the environment has RANK={rank} and WORLD_SIZE={size}: ranks count from 0 to one less"
            " than the world's size; unset both, or start by torchrun"
        )
    return found


@contextmanager
def joined(ranks: int | None) -> Iterator[World]:
    """The world this process is in, with `torch.distributed` initialized where it has others.

    On GPUs by NCCL, rank by rank a GPU of this machine; else by gloo. `ranks`: how many are wanted,
    None: as many as were started.

    Raises:
        StokerError: another number was started; fewer GPUs than ranks.
    """
    found = told()
    rank, size = found or (0, 1)
    if ranks is not None and ranks != size:
        raise StokerError(
            f"--ranks {ranks}, and {size} were started: leave it out under torchrun, and else start"
            " python -m benchmarks.starvation, which starts them"
        )
    if size == 1:
        yield World()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        _take_gpu(int(os.environ.get("LOCAL_RANK", rank)))
    store = _store(rank, size)
    of_group, of_run = (dist.PrefixStore(name, store) for name in ("group", "run"))  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=of_group, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size, backend, of_run)
    finally:
        dist.destroy_process_group()


def _store(rank: int, size: int) -> Any:
    place = os.environ.get(STORE)
    if place is not None:
        host, _, port = place.rpartition(":")
        return dist.TCPStore(host, int(port), is_master=False, timeout=TIMEOUT)  # type: ignore[attr-defined]
    return next(rendezvous("env://", rank, size, timeout=TIMEOUT))[0]


def _take_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise StokerError(
            f"rank {local_rank} of this machine has no GPU of its own, there are {count}: start"
            f" {count} ranks, or CUDA_VISIBLE_DEVICES= to emulate them"
        )
    torch.cuda.set_device(local_rank)
