"""Every nanosecond of a window to compute or to exactly one cause of idleness.

Integer arithmetic on intervals: int64 arrays [n, 2] of (start, stop) nanoseconds on one clock, in
any order, possibly overlapping or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.starvation.causes import COMPUTE, HOST

Intervals = np.ndarray


@dataclass(frozen=True)
class Attribution:
    """Nanoseconds of a window by cause, in the order of asking; they sum to `window`.

    `compute` first, then the causes, then `host`: idle time that no span covers.
    """

    window: int
    nanoseconds: dict[str, int]

    def share(self, *causes: str) -> float:
        """The part of the window, 0 to 1, that these causes took together."""
        return sum(self.nanoseconds.get(cause, 0) for cause in causes) / max(1, self.window)

    @property
    def idle(self) -> int:
        """Nanoseconds of the window in which the device computed nothing."""
        return self.window - self.nanoseconds[COMPUTE]


def attribute(
    window: tuple[int, int], busy: Intervals, spans: Sequence[tuple[str, Intervals]]
) -> Attribution:
    """Split `window` into compute (`busy`) and causes: idle time goes to its first span.

    A cause may come twice; its parts are added.
    """
    start, stop = window
    if stop < start:
        raise ValueError(f"a window of {stop - start} ns: it must not end before it starts")
    whole = np.array([[start, stop]], dtype=np.int64)
    idle = subtract(whole, busy)
    nanoseconds = {COMPUTE: stop - start - length(idle)}
    for cause, these in spans:
        rest = subtract(idle, these)
        nanoseconds[cause] = nanoseconds.get(cause, 0) + length(idle) - length(rest)
        idle = rest
    nanoseconds[HOST] = nanoseconds.get(HOST, 0) + length(idle)
    return Attribution(stop - start, nanoseconds)


def intervals(starts: np.ndarray, stops: np.ndarray) -> Intervals:
    """[n, 2] from two columns; where a stop lies before its start the interval is empty."""
    return np.stack([starts, np.maximum(starts, stops)], axis=-1).astype(np.int64).reshape(-1, 2)


def length(spans: Intervals) -> int:
    """Nanoseconds covered by disjoint intervals."""
    return int((spans[:, 1] - spans[:, 0]).sum())


def union(spans: Intervals) -> Intervals:
    """The same points as sorted, disjoint, non-empty intervals."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return spans.reshape(0, 2)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([spans[first, 0], reach[last]], axis=-1)


def subtract(spans: Intervals, holes: Intervals) -> Intervals:
    """The points of `spans` that lie in no hole, as sorted, disjoint, non-empty intervals."""
    spans, holes = union(spans), union(holes)
    if not len(spans) or not len(holes):
        return spans
    edges = np.unique(np.concatenate([spans.ravel(), holes.ravel()]))
    pieces = np.stack([edges[:-1], edges[1:]], axis=-1)
    keep = _covers(spans, pieces) & ~_covers(holes, pieces)
    return union(pieces[keep])


def _covers(spans: Intervals, pieces: Intervals) -> np.ndarray:
    """Which pieces lie in one of the disjoint sorted `spans`; no piece crosses a span's edge."""
    at = np.searchsorted(spans[:, 0], pieces[:, 0], side="right") - 1
    inside: np.ndarray = (at >= 0) & (pieces[:, 0] < spans[np.maximum(at, 0), 1])
    return inside
