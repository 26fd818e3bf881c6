"""Causes of a window that is still open, added up while it runs: for progress and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.starvation.explain.causes import COMMUNICATION, COMPUTE, HOST, INPUT


@dataclass(frozen=True)
class SoFar:
    """A window that is still open: `causes` are nanoseconds of `window_ns`, which they sum to."""

    steps: int = 0
    window_ns: int = 0
    causes: dict[str, int] = field(default_factory=dict)


class Running:
    """Adds up steps whose moments are known, one after the other; the first opens the window.

    Rougher than a report: a wait in next() counts as `input` for as long as the device was idle
    around it, and spans that overlap each other count twice, at the cost of compute.
    """

    def __init__(self) -> None:
        self.so_far = SoFar()
        self._step = self._span = 0
        self._end: float | None = None

    def add(
        self,
        times: Sequence[float],
        bounds: Sequence[tuple[int, int]],
        waits: Sequence[tuple[int, int]],
        spans: Sequence[tuple[str, int, int]],
    ) -> None:
        """Take in the steps whose `bounds` are among the `times` that are known by now.

        `bounds` and `spans` hold numbers of moments, `waits` host times, a row a step.
        """
        while self._step < len(bounds) and bounds[self._step][1] < len(times):
            start, end = (times[number] for number in bounds[self._step])
            inside: dict[str, float] = {}
            while self._span < len(spans) and spans[self._span][2] <= bounds[self._step][1]:
                cause, first, last = spans[self._span]
                inside[cause] = inside.get(cause, 0) + times[last] - times[first]
                self._span += 1
            if self._end is not None:
                asked, got = waits[self._step]
                self._count(start - self._end, got - asked, end - start, inside)
            self._end = end
            self._step += 1

    def _count(self, gap: float, wait: float, busy: float, inside: dict[str, float]) -> None:
        gap, busy = round(max(0.0, gap)), round(max(0.0, busy))
        period = gap + busy
        parts = {INPUT: min(gap, round(wait))}
        parts[HOST] = gap - parts[INPUT]
        for cause in sorted(inside, key=lambda each: each != COMMUNICATION):
            taken = min(busy, round(inside[cause]))
            parts[cause] = parts.get(cause, 0) + taken
            busy -= taken
        parts[COMPUTE] = busy
        old = self.so_far
        causes = {
            cause: old.causes.get(cause, 0) + int(parts.get(cause, 0))
            for cause in {**old.causes, **parts}
        }
        # One new object: another thread may be reading the old one.
        self.so_far = SoFar(old.steps + 1, old.window_ns + int(period), causes)
