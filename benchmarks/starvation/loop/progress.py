"""How a measurement is doing while it runs: steps, how much it starved so far, when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock
from types import TracebackType
from typing import IO, Self

from tqdm import tqdm

from benchmarks.starvation.cards.accelerator import Batch

SHOWN_EVERY_NS = 100_000_000


class Progress:
    """A bar on stderr, or nothing where that is no terminal.

    What it says is a bound: a wait in next() starves the device only once its queue is empty,
    which is known when the run is over.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        *,
        file: IO[str] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._clock = clock
        self.expected, self.steps = steps, 0
        self._lock = Lock()
        self._shown = 0
        # Of the seeds before: nanoseconds since their first batches, and in next().
        self._before = (0, 0)
        self._watched = _Watched(iter(()), clock)
        shown = None if file is None else False
        self._bar = tqdm(
            total=steps, desc=title, unit="step", leave=False, disable=shown, file=file
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._bar.disable:
            self._show()
        self._bar.close()

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, with the waits for them counted from here on."""
        watched = _Watched(batches, self._clock)
        with self._lock:
            self._before, self._watched = self._so_far(), watched
        return watched

    @property
    def starved_at_most(self) -> float:
        """Share of the time since the first batch that the loop stood in next(), 0 to 1."""
        seen = self._watched
        return seen.waited / max(1, self._clock() - seen.began) if seen.began else 0.0

    @property
    def seconds(self) -> float:
        """Since the first batch of each seed, all of them together; any thread may ask."""
        with self._lock:
            return self._so_far()[0] / 1e9

    @property
    def waited_seconds(self) -> float:
        """What of them the loop stood in next(); likewise."""
        with self._lock:
            return self._so_far()[1] / 1e9

    def _so_far(self) -> tuple[int, int]:
        lasted, waited = self._before
        here = self._watched.at_step
        return lasted + here[0], waited + here[1]

    def step(self, _: int) -> None:
        """One more step was handed to the device."""
        self.steps += 1
        # Batches that are taken behind the last step are for no device.
        self._watched.at_step = self._clock() - self._watched.began, self._watched.waited
        # What is written costs more than what is measured: a reader sees ten times a second.
        if not self._bar.disable and self._clock() - self._shown > SHOWN_EVERY_NS:
            self._show()

    def now(self, title: str) -> None:
        """What is going on from here on."""
        self._bar.set_description(title, refresh=False)
        self._show()

    def _show(self) -> None:
        self._shown = self._clock()
        self._bar.set_postfix_str(f"starved <= {100 * self.starved_at_most:.1f} %", refresh=False)
        self._bar.update(self.steps - self._bar.n)
        self._bar.refresh()


class _Watched(Iterator[Batch]):
    """Holds no batch: one that is kept alive would keep its memory from being used again."""

    def __init__(self, batches: Iterator[Batch], clock: Callable[[], int]) -> None:
        self._batches, self._clock = batches, clock
        self.began = self.waited = 0
        self.at_step = (0, 0)

    def __next__(self) -> Batch:
        asked = self._clock()
        batch = next(self._batches)
        if self.began:
            self.waited += self._clock() - asked
        else:
            # Until the first batch it was opening, not starving.
            self.began = self._clock()
        return batch
