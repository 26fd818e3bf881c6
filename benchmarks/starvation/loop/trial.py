"""All that is measured of one contender, as its part of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.starvation.cards.accelerator import Accelerator
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.loop.attempt import Feeds, attempt
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.progress import Progress
from benchmarks.starvation.loop.sweep import sweep
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.reports.steps import step_table


def measure(
    contender: Feeds,
    accelerator: Accelerator,
    plan: Plan,
    seeds: int,
    counts: Sequence[int] = (),
    *,
    world: World | None = None,
    on_begin: Callable[[Progress], object] = lambda _: None,
) -> tuple[Result, pa.Table]:
    """The result of a contender and all of its steps, warm-up included.

    `counts`: numbers of workers to try it with besides, where it takes such a number. Every
    rank of `world` does so at the same time, and gets what all of them saw. `on_begin` is given
    what counts the steps.
    """
    with contender.ready():
        tried = attempt(contender, accelerator, plan, seeds, world=world, on_begin=on_begin)
        points = sweep(contender, counts, accelerator, plan, world)
    alone = tried.alone
    result = merge(
        contender.name,
        contender.title,
        contender.note,
        tried.recordings,
        unthrottled_tokens_per_s=alone.tokens_per_s if alone else None,
        cpu_s_per_token=alone.cpu_s_per_token if alone else None,
        bounded=contender.bounded,
        resume_gap_ms=float(np.median(tried.resume_ms)) if tried.resume_ms else None,
        workers=points,
        cards=getattr(accelerator, "cards", 1),
    )
    return result, step_table(contender.name, tried.recordings)
