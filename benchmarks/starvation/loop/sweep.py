"""What more workers bring: the same loader with so many processes, alone and in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from benchmarks.starvation.cards.accelerator import Accelerator
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.explain.result import WorkersPoint
from benchmarks.starvation.loop.attempt import Feeds, attempt
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.world import World


@runtime_checkable
class Sized(Protocol):
    """A contender whose number of worker processes can be chosen."""

    def with_workers(self, workers: int) -> Feeds | None:
        """The same with so many; None where it takes no such number."""


def sized(contender: Feeds) -> bool:
    """Whether `contender` takes a number of workers."""
    return isinstance(contender, Sized) and contender.with_workers(1) is not None


def sweep(
    contender: Feeds,
    counts: Sequence[int],
    accelerator: Accelerator,
    plan: Plan,
    world: World | None = None,
) -> tuple[WorkersPoint, ...]:
    """A point a count, fewest first; one seed each. None for a contender that takes no number."""
    points = []
    for count in sorted(set(counts)):
        other = contender.with_workers(count) if isinstance(contender, Sized) else None
        if other is None:
            return ()
        tried = attempt(
            other, accelerator, plan, 1, f"{contender.title}, {count} workers", world=world
        )
        if tried.alone is None:
            return ()
        result = merge(
            other.name,
            other.title,
            other.note,
            tried.recordings,
            unthrottled_tokens_per_s=tried.alone.tokens_per_s,
        )
        points.append(
            WorkersPoint(
                count,
                tried.alone.tokens_per_s,
                result.headroom or 0.0,
                result.figures.stall_rate,
            )
        )
    return tuple(points)
