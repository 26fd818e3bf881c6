"""All that is measured of one contender, as its part of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.starvation.accelerator import Accelerator
from benchmarks.starvation.attempt import Feeds, attempt
from benchmarks.starvation.measure import Plan
from benchmarks.starvation.merge import merge
from benchmarks.starvation.progress import Progress
from benchmarks.starvation.result import Result
from benchmarks.starvation.steps import step_table
from benchmarks.starvation.sweep import sweep
from benchmarks.starvation.world import World


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
