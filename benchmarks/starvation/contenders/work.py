"""What a worker of a torch DataLoader did for each batch and when, sent along with the batch.

Times are of `time.perf_counter_ns`, one clock for all processes of a machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.loop.recording import WORK

KINDS = ("fetch", "prep", "assemble")
KEPT_BATCHES = 4096
_ROW = np.dtype([("kind", "<i8"), ("start", "<i8"), ("stop", "<i8")])


class WorkClock:
    """Written by the one thread that makes a worker's batches: at any time it does one thing."""

    def __init__(self) -> None:
        self._done: list[tuple[int, int, int]] = []
        self._kind: int | None = None
        self._since = 0

    def doing(self, kind: str | None) -> None:
        """From now on `kind` of `KINDS`; None: nothing, nobody has asked for the next batch."""
        number = None if kind is None else KINDS.index(kind)
        if number == self._kind:
            return
        now = time.perf_counter_ns()
        if self._kind is not None:
            self._done.append((self._kind, self._since, now))
        self._kind, self._since = number, now

    def take(self) -> tuple[int, bytes]:
        """The worker's number and all it did for the batch that is ready now; begins anew."""
        self.doing(None)
        packed = np.array(self._done, dtype=_ROW).tobytes()
        self._done = []
        info = get_worker_info()
        return (0 if info is None else info.id), packed


class TimedCollate:
    """`collate` on the clock; returns (batch, what `clock` saw)."""

    def __init__(self, clock: WorkClock, collate: Callable[[list[Any]], Batch]) -> None:
        self.clock, self.collate = clock, collate

    def __call__(self, samples: list[Any]) -> tuple[Batch, tuple[int, bytes]]:
        """See `TimedCollate`."""
        self.clock.doing("assemble")
        batch = self.collate(samples)
        return batch, self.clock.take()


class KeptWork:
    """The rows of the last `KEPT_BATCHES` batches, kept where they are taken."""

    def __init__(self) -> None:
        self._rows: deque[np.ndarray] = deque(maxlen=KEPT_BATCHES)
        self._batches = 0

    def batches(self, pairs: Iterator[tuple[Batch, tuple[int, bytes]]]) -> Iterator[Batch]:
        """The batches alone; what came with them is kept."""
        for batch, (worker, packed) in pairs:
            self.keep(worker, packed)
            yield batch

    def keep(self, worker: int, packed: bytes) -> None:
        """Of the batch that is taken now."""
        done = np.frombuffer(packed, dtype=_ROW)
        rows = np.empty(len(done), dtype=WORK)
        rows["batch"], rows["worker"] = self._batches, worker
        rows["kind"] = np.array(KINDS)[done["kind"]]
        rows["start"], rows["stop"] = done["start"], done["stop"]
        self._rows.append(rows)
        self._batches += 1

    def rows(self) -> np.ndarray:
        """WORK rows in order of delivery."""
        return np.concatenate([np.empty(0, dtype=WORK), *self._rows])
