"""Every nanosecond of a window to compute or to exactly one cause of idleness.

Integer arithmetic on intervals: int64 arrays [n, 2] of (start, stop) nanoseconds on one clock, in
any order, possibly overlapping or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.starvation.explain.causes import COMMUNICATION, COMPUTE, HOST, STRAGGLER

Intervals = np.ndarray


@dataclass(frozen=True)
class Attribution:
    """Nanoseconds of a window by cause, in the order of asking; they sum to `window`.

    `compute` first, then what was going on inside steps, then the causes between them, then `host`:
    idle time that no span covers. `steps`: int64 [periods, causes], the same for each period
    between two edges; a row sums to its period. `working`: int64 [periods], the steps' own time,
    waits inside them included.
    """

    window: int
    nanoseconds: dict[str, int]
    steps: np.ndarray
    working: np.ndarray

    def share(self, *causes: str) -> float:
        """The part of the window, 0 to 1, that these causes took together."""
        return sum(self.nanoseconds.get(cause, 0) for cause in causes) / max(1, self.window)

    @property
    def idle(self) -> int:
        """Nanoseconds of the window between steps."""
        return self.window - int(self.working.sum())

    @property
    def gaps(self) -> np.ndarray:
        """int64 [periods]: nanoseconds of each period between steps."""
        inside: np.ndarray = self.steps.sum(axis=1) - self.working
        return inside

    @property
    def own(self) -> np.ndarray:
        """int64 [periods]: nanoseconds of each period that did not go into waiting for ranks."""
        rest: np.ndarray = self.steps.sum(axis=1) - self.column(COMMUNICATION, STRAGGLER)
        return rest

    def column(self, *causes: str) -> np.ndarray:
        """int64 [periods]: nanoseconds of each period that these causes took together."""
        names = list(self.nanoseconds)
        at = [names.index(cause) for cause in causes if cause in names]
        total: np.ndarray = self.steps[:, at].sum(axis=1)
        return total

    def moved(self, origin: str, to: str, nanoseconds: np.ndarray) -> Attribution:
        """The same with up to `nanoseconds` [periods] of `origin` counted as `to` instead."""
        names = list(self.nanoseconds)
        if to not in names:
            names.insert(names.index(origin), to)
        columns = {name: self.column(name) for name in names}
        taken = np.clip(nanoseconds, 0, columns[origin])
        columns[origin] = columns[origin] - taken
        columns[to] = columns[to] + taken
        return _summed(self.window, self.working, columns)


def attribute(
    edges: Sequence[int] | np.ndarray,
    busy: Intervals,
    spans: Sequence[tuple[str, Intervals]],
    inside: Sequence[tuple[str, Intervals]] = (),
) -> Attribution:
    """Count what `split` gives for the window between the first and last of `edges`.

    Raises:
        ValueError: edges that are not in order.
    """
    at = np.asarray(edges, dtype=np.int64)
    if (np.diff(at) < 0).any():
        wrong = int(np.diff(at).min())
        raise ValueError(f"a window of {wrong} ns: it must not end before it starts")
    window = (int(at[0]), int(at[-1]))
    columns: dict[str, np.ndarray] = {}
    for cause, pieces in split(window, busy, spans, inside):
        columns[cause] = columns.get(cause, 0) + within(pieces, at)
    working = within(_shared(np.array([window]), busy), at)
    return _summed(window[1] - window[0], working, columns)


def split(
    window: tuple[int, int],
    busy: Intervals,
    spans: Sequence[tuple[str, Intervals]],
    inside: Sequence[tuple[str, Intervals]] = (),
) -> list[tuple[str, Intervals]]:
    """`window` in pieces by cause: disjoint, and together all of it. A cause may come twice.

    Time in `busy` goes to the first span of `inside` that covers it, else to compute; all other
    time to its first span of `spans`, else to the host.
    """
    whole = np.array([window], dtype=np.int64)
    working, waits = _claimed(_shared(whole, busy), inside)
    idle, causes = _claimed(subtract(whole, busy), spans)
    return [(COMPUTE, working), *waits, *causes, (HOST, idle)]


def _claimed(
    rest: Intervals, spans: Sequence[tuple[str, Intervals]]
) -> tuple[Intervals, list[tuple[str, Intervals]]]:
    """What none of `spans` covers, and what each covers that none before it does."""
    claimed = []
    for cause, these in spans:
        left = subtract(rest, these)
        claimed.append((cause, subtract(rest, left)))
        rest = left
    return rest, claimed


def _shared(spans: Intervals, others: Intervals) -> Intervals:
    return subtract(spans, subtract(spans, others))


def _summed(window: int, working: np.ndarray, columns: dict[str, np.ndarray]) -> Attribution:
    steps = np.stack(list(columns.values()), axis=1)
    totals = {cause: int(column.sum()) for cause, column in columns.items()}
    return Attribution(window, totals, steps, working)


def within(spans: Intervals, edges: np.ndarray) -> np.ndarray:
    """int64 [len(edges) - 1]: nanoseconds of sorted, disjoint `spans` between each two edges."""
    if not len(spans):
        return np.zeros(len(edges) - 1, dtype=np.int64)
    # Up to each edge: all spans that began before it, less what the last of them has still to go.
    begun = np.searchsorted(spans[:, 0], edges, side="right")
    covered = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])[begun]
    to_go = np.where(begun > 0, np.maximum(0, spans[np.maximum(begun, 1) - 1, 1] - edges), 0)
    parts: np.ndarray = np.diff(covered - to_go)
    return parts


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
