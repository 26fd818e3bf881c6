"""Where the steps of several emulated ranks wait for each other: all go on when the last is there.

A rank says when it arrives, in nanoseconds of `time.perf_counter_ns`, which is one clock for all
processes of a machine, and is told when the last one does. Every rank has to run the same number of
steps.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from shards.errors import StokerError

TIMEOUT_S = 60.0


class Exchange(Protocol):
    """One rank's end of it."""

    @property
    def ranks(self) -> int:
        """How many take part."""

    def last(self, arrival_ns: int) -> int:
        """When the last rank arrives at this exchange; blocks until every rank has told."""

    def leave(self) -> None:
        """This rank takes no more steps; those that wait for it fail instead of hanging."""


class Ranks:
    """`ranks` of them as threads of one process."""

    def __init__(self, ranks: int, timeout_s: float = TIMEOUT_S) -> None:
        self.ranks, self.timeout_s = ranks, timeout_s
        self._changed = threading.Condition()
        self._arrivals: dict[int, list[int]] = {}
        self._left = False

    def member(self, rank: int) -> ThreadExchange:
        """The end of `rank`."""
        return ThreadExchange(self, rank)

    def last(self, number: int, arrival_ns: int) -> int | None:
        """The last arrival at exchange `number`; None where a rank left or doesn't come."""
        with self._changed:
            # All read the same list; it is forgotten when nobody can ask for it any more.
            arrivals = self._arrivals.setdefault(number, [])
            self._arrivals.pop(number - 2, None)
            arrivals.append(arrival_ns)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(arrivals) == self.ranks or self._left, self.timeout_s
            )
            return max(arrivals) if len(arrivals) == self.ranks else None

    def leave(self) -> None:
        """Whoever waits for more arrivals, now or later, is told that none come."""
        with self._changed:
            self._left = True
            self._changed.notify_all()


@dataclass
class ThreadExchange:
    """The end of one rank that is a thread."""

    together: Ranks
    rank: int
    number: int = field(default=0, init=False)

    @property
    def ranks(self) -> int:
        """See `Exchange.ranks`."""
        return self.together.ranks

    def last(self, arrival_ns: int) -> int:
        """See `Exchange.last`."""
        latest = self.together.last(self.number, arrival_ns)
        if latest is None:
            raise _missing(self.rank, self.ranks, self.together.timeout_s)
        self.number += 1
        return latest

    def leave(self) -> None:
        """See `Exchange.leave`."""
        self.together.leave()


class GlooExchange:
    """The end of one rank that is a process, as torchrun starts them.

    `torch.distributed` must be initialized; it gets a group of its own, since a device thread uses
    it while the loop may use the default one.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def last(self, arrival_ns: int) -> int:
        """See `Exchange.last`."""
        latest = torch.tensor([arrival_ns], dtype=torch.int64)
        try:
            dist.all_reduce(latest, dist.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            raise _missing(self.rank, self.ranks, self.timeout_s) from error
        return int(latest)

    def leave(self) -> None:
        """See `Exchange.leave`; the others notice when this process ends."""


def _missing(rank: int, ranks: int, timeout_s: float) -> StokerError:
    return StokerError(
        f"rank {rank} of {ranks}: another rank left, or did not arrive at the end of a step within"
        f" {timeout_s:g} s; every rank has to run the same number of steps"
    )
