"""What another method and other numbers of workers say of a run, in a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.starvation.explain.result import Ladder, Result, WorkersPoint, knee
from benchmarks.starvation.reports.report import Report, number

TRY_MORE = "the best is at the edge: try more workers"


def beside_the_table(report: Report) -> tuple[str, ...]:
    """For the console: whether the ladder agrees, and where each contender's knee is."""
    knees = (knee_sentence(result) for result in report.results)
    ladder = [] if report.ladder is None else [ladder_sentence(report.ladder)]
    return (*ladder, *(sentence for sentence in knees if sentence))


def ladder_sentence(ladder: Ladder) -> str:
    """`ladder and attribution agree: 0.8 points apart, 2 are allowed`."""
    agree = "agree" if ladder.agrees else "do not agree, trust neither"
    return (
        f"ladder and attribution {agree}: {100 * ladder.difference:.1f} points apart, 2 are allowed"
    )


def knee_sentence(result: Result) -> str:
    """`Stoker: the knee is at 2 workers, 4.1 times the demand`; "" where none were varied."""
    bend = knee(result.workers)
    if bend is None:
        return ""
    many = "1 worker" if bend.workers == 1 else f"{bend.workers} workers"
    words = f"{result.title}: the knee is at {many}, {number(bend.headroom, 2)} times the demand"
    return words + (f"; {TRY_MORE}" if at_edge(result.workers) else "")


def at_edge(points: Sequence[WorkersPoint]) -> bool:
    """Whether the knee is the largest number that was tried: more may bring more."""
    bend = knee(points)
    return bend is not None and bend.workers == max(point.workers for point in points)
