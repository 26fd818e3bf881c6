"""What the benchmark asks of a source of batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from benchmarks.starvation.cards.accelerator import Batch


class Feeder(Protocol):
    """Who feeds a loop; `bounded` is False where it has no speed of its own."""

    @property
    def name(self) -> str:
        """A word for programs."""

    @property
    def title(self) -> str:
        """Its name for people."""

    @property
    def note(self) -> str:
        """How it works, in half a line."""

    @property
    def bounded(self) -> bool:
        """See above."""

    def ready(self) -> AbstractContextManager[object]:
        """What has to run as long as it does, a server for example; started off the clock."""


class Contender(Feeder, Protocol):
    """A source of batches for the loop of this process."""

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """Start it: an endless iterator.

        Each seed is another order of the same data, always the same one.
        """

    def epochs(self) -> tuple[int, ...]:
        """Numbers of the batches, from 0 on, that began an epoch, but for the very first."""

    def timeline(self) -> np.ndarray | None:
        """What it knows about the way of its batches, or None.

        Rows of `loaders.stats.TIMELINE` or of `recording.WORK`.
        """
