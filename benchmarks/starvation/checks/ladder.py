"""The differential ladder: the same loop with less and less input work, beside the attribution.

L0 a batch that lies on the device, L1 and its copy, L2 the loader over shards in memory, L3 over
warm local files, L4 over S3. What a level's steps take longer than those of the level below is what
its part of the work costs, whatever evidence says: DS-Analyzer's differences, one part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.profiles import Profile
from benchmarks.starvation.checks.rungs import Rung, Rungs
from benchmarks.starvation.explain.figures import columns
from benchmarks.starvation.explain.merge import Measured, attributions
from benchmarks.starvation.explain.result import Ladder, Level
from benchmarks.starvation.explain.statistics import Estimate, estimate
from benchmarks.starvation.loop.measure import Plan, record
from benchmarks.starvation.loop.recording import Recording


@dataclass(frozen=True)
class Card:
    """The emulated card that all levels train on."""

    profile: Profile
    cards: int = 1
    time_scale: float = 1.0


@dataclass(frozen=True)
class _Climbed:
    rung: Rung
    step_ns: float
    causes_ns: dict[str, float]
    step_ms: Estimate


def climb(
    levels: Rungs,
    card: Card,
    plan: Plan,
    seeds: int = 1,
    on_step: Callable[[int], object] = lambda _: None,
) -> Ladder:
    """Measure every level and compare what it adds with what the attribution says of its causes.

    Both are shares of the highest level's time. `agrees` of the result is within 2 points.
    """
    climbed = [_measure(rung, card, plan, seeds, on_step) for rung in levels.found]
    whole = climbed[-1].step_ns
    ground, top = levels.found[0], levels.found[-1]
    found = [Level(ground.level, ground.title, (), climbed[0].step_ms)]
    for below, here in pairwise(climbed):
        rung = here.rung
        attributed = sum(
            here.causes_ns.get(cause, 0.0) - below.causes_ns.get(cause, 0.0)
            for cause in rung.causes
        )
        found.append(
            Level(
                rung.level,
                rung.title,
                rung.causes,
                here.step_ms,
                (here.step_ns - below.step_ns) / whole,
                attributed / whole,
            )
        )
    difference = max(abs((each.added or 0) - (each.attributed or 0)) for each in found)
    return Ladder(top.contender.name, tuple(found), difference, levels.left_out)


def _measure(
    rung: Rung, card: Card, plan: Plan, seeds: int, on_step: Callable[[int], object]
) -> _Climbed:
    recordings: list[Recording] = []
    accelerator = EmulatedAccelerator(card.profile, card.cards, card.time_scale, node=rung.node)
    with closing(accelerator), rung.contender.ready():
        for seed in range(seeds):
            recording, batches = record(
                partial(rung.contender.open, seed), accelerator, plan, on_step, seed
            )
            recordings.append(replace(recording, timeline=rung.contender.timeline()))
            del batches
    measured = attributions(recordings)
    parts = [part for ranks in measured for _, part in ranks]
    steps = sum(len(part.steps) for part in parts)
    causes = {cause for part in parts for cause in part.nanoseconds}
    return _Climbed(
        rung,
        sum(part.window for part in parts) / steps,
        {cause: sum(part.nanoseconds.get(cause, 0) for part in parts) / steps for cause in causes},
        _step_ms(measured),
    )


def _step_ms(measured: Sequence[Sequence[Measured]]) -> Estimate:
    tables = [columns(*zip(*ranks, strict=True)) for ranks in measured]
    return estimate(tables, {"step_ms": lambda table: float(table["period"].mean()) / 1e6})[
        "step_ms"
    ]
