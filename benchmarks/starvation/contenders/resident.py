"""No input work at all: the ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmarks.starvation.cards.accelerator import Batch


@dataclass
class ResidentBatch:
    """One batch, given again and again: what the loop does when input costs nothing."""

    batch: Batch
    name: str = field(default="resident", init=False)
    title: str = field(default="batch already there", init=False)
    note: str = field(default="the ceiling: no input work at all", init=False)
    bounded: bool = field(default=False, init=False)

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`."""
        return nullcontext()

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`; one batch has no order."""
        while True:
            yield self.batch

    def epochs(self) -> tuple[int, ...]:
        """See `Contender.epochs`: there are none."""
        return ()

    def timeline(self) -> None:
        """See `Contender.timeline`."""
