"""What a loader did and how long it was waited for: counters, and a timeline of its last steps."""

import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

# Nanoseconds of time.perf_counter_ns. `asked`: the first read for the step's chunk was handed to
# the threads; `arrived`: its last byte was there and verified; `assembled`: its tensors were
# filled; `queued`: the batch could be taken; `delivered`: it was taken; `waited`: how long next()
# was blocked for it.
TIMELINE = np.dtype(
    [("step", "<i8")]
    + [(name, "<i8") for name in ("asked", "arrived", "assembled", "queued", "delivered", "waited")]
)
_STEPS = 4096


@dataclass
class FetchCounts:
    """Counted by the fetch threads, under `lock`.

    Attributes:
        bytes_read, requests: answers of the store that were used.
        retries: reads sent again after a failure. Of those failures `timeouts` had no answer within
            their deadline, and in `throttled` the store asked for fewer requests (503).
        hedges, hedges_won: second requests beside one that was late, and those that came first.
        corrupt_rereads: parts read again because the store's bytes were wrong.
        cache_hits, cache_bytes_read, cache_bytes_written: reads answered by the disk cache.
        cache_damaged: of those, parts that were wrong and read from the store instead.
        cache_failures: times that the cache's disk was full or broken.
    """

    lock: Lock = field(default_factory=Lock, repr=False)
    bytes_read: int = 0
    requests: int = 0
    retries: int = 0
    timeouts: int = 0
    throttled: int = 0
    hedges: int = 0
    hedges_won: int = 0
    corrupt_rereads: int = 0
    cache_hits: int = 0
    cache_bytes_read: int = 0
    cache_bytes_written: int = 0
    cache_damaged: int = 0
    cache_failures: int = 0

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class Stats:
    """Of one loader, over all its iterations. Written by the thread that takes the batches."""

    def __init__(self) -> None:
        self.fetch = FetchCounts()
        self.batches = 0
        self.tokens = 0
        self.wait_ns = 0
        self.moved_rows = 0  # of a mixture: read by themselves, since other ranks own them
        self.first_batch_ns: int | None = None
        self._ring: list[tuple[int, ...]] = []

    def delivered(self, marks: tuple[int, int, int, int], tokens: int, began: int) -> None:
        """A batch was taken, `began` being when next() was called and `marks` the times so far."""
        now = time.perf_counter_ns()
        waited = now - began
        step = (self.batches, *marks, now, waited)
        # A list of tuples: numpy takes ten times as long to store one row.
        if len(self._ring) < _STEPS:
            self._ring.append(step)
        else:
            self._ring[self.batches % _STEPS] = step
        self.batches += 1
        self.tokens += tokens
        self.wait_ns += waited

    def taken(self, began: int, iteration_began: int | None) -> None:
        """A foreign dataset's batch was taken; `iteration_began` with an iteration's first."""
        now = time.perf_counter_ns()
        self.batches += 1
        self.wait_ns += now - began
        if iteration_began is not None:
            self.first_batch_ns = now - iteration_began

    def waits(self) -> dict[str, Any]:
        first = self.first_batch_ns
        return {
            "batches": self.batches,
            "wait_seconds": self.wait_ns / 1e9,
            "first_batch_seconds": None if first is None else first / 1e9,
        }

    def timeline(self) -> npt.NDArray[Any]:
        """The last 4,096 steps, oldest first: a structured array of `TIMELINE`."""
        steps = sorted(self._ring)
        return np.array(steps, TIMELINE)

    def summary(self) -> dict[str, Any]:
        counts = self.fetch
        with counts.lock:
            fetched = {
                name: getattr(counts, name)
                for name in counts.__dataclass_fields__
                if name != "lock"
            }
        return {**self.waits(), "tokens": self.tokens, **fetched}
