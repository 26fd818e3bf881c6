"""Where verified samples wait for their batch: an arena of blocks, or the whole split.

Both answer the same questions: is there room for this run, and in which rows do these samples lie.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loaders.blocks import Rows
from loaders.schedule import Chunk, Run

Ints = npt.NDArray[np.int64]


class Memory(Protocol):
    """Rows that runs are read into and that batches are gathered from."""

    rows: Rows

    def place(self, run: Run) -> Rows | None:
        """Room for a run; None: none now."""
        ...

    def landed(self, run: Run) -> None: ...

    def addresses(self, chunk: Chunk) -> Ints:
        """The row of each of the chunk's samples."""
        ...

    def forget(self, numbers: Iterable[int]) -> None: ...

    @property
    def used(self) -> int:
        """Samples that have a place."""
        ...


class Arena:
    """`slots` places of `slot_samples` rows, used again and again."""

    def __init__(self, rows: Rows, slots: int, slot_samples: int) -> None:
        self.rows = rows
        self._slot_samples = slot_samples
        self._slots = slots
        self.forget_all()

    def forget_all(self) -> None:
        self._free = list(range(self._slots))
        # Run numbers grow, and between the oldest live one and the newest lie at most 2 runs for
        # each slot in use and the slots read ahead: four times the slots never collide.
        self._slot = np.full(1 << (4 * self._slots).bit_length(), -1)

    def place(self, run: Run) -> Rows | None:
        if not self._free:
            return None
        index = run.number % self._slot.size
        if self._slot[index] >= 0:
            raise AssertionError(f"run {run.number} collides with one that is still in use")
        slot = self._slot[index] = self._free.pop()
        first = slot * self._slot_samples
        return self.rows[first : first + run.count]

    def landed(self, run: Run) -> None:
        pass

    def addresses(self, chunk: Chunk) -> Ints:
        slots: Ints = self._slot[chunk.run % self._slot.size]
        return slots * self._slot_samples + chunk.row

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            index = number % self._slot.size
            self._free.append(int(self._slot[index]))
            self._slot[index] = -1

    @property
    def used(self) -> int:
        return (self._slots - len(self._free)) * self._slot_samples


class Resident:
    """A row for every sample of the split, read once and kept from epoch to epoch."""

    def __init__(self, rows: Rows, run_samples: int) -> None:
        self.rows = rows
        self.run_samples = run_samples
        self.held = np.zeros(-(-rows.tokens.shape[0] // run_samples), bool)

    def place(self, run: Run) -> Rows | None:
        return self.rows[run.first : run.first + run.count]

    def landed(self, run: Run) -> None:
        self.held[run.number] = True

    def addresses(self, chunk: Chunk) -> Ints:
        return chunk.run * self.run_samples + chunk.row

    def forget(self, numbers: Iterable[int]) -> None:
        pass

    @property
    def used(self) -> int:
        held = int(self.held.sum()) * self.run_samples
        return min(held, len(self.rows.tokens))
