"""All that is measured of one contender: in the loop, seed by seed, then alone, then restored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from benchmarks.starvation.accelerator import Accelerator, Batch
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.cpu import CpuTime
from benchmarks.starvation.measure import Alone, Plan, alone, record
from benchmarks.starvation.merge import merge
from benchmarks.starvation.progress import Progress
from benchmarks.starvation.recording import Recording
from benchmarks.starvation.result import Result
from benchmarks.starvation.steps import step_table


@runtime_checkable
class Resumable(Protocol):
    """A contender whose place can be saved and found again."""

    def state(self) -> Any:
        """Where it stands: behind the last batch that it gave."""

    def resume(self, state: Any, seed: int = 0) -> Iterator[Batch]:
        """Open it anew where `state` was taken, of the same seed."""


@dataclass(frozen=True)
class Trial:
    """What one contender did: a recording a seed, then without a device, then restored.

    `alone`: None of a contender without a speed of its own. `resume_ms`: from opening it anew, at
    the place where each seed's loop had ended, to the first batch; none where it can't be resumed.
    """

    recordings: tuple[Recording, ...]
    alone: Alone | None = None
    resume_ms: tuple[float, ...] = ()


def measure(
    contender: Contender, accelerator: Accelerator, plan: Plan, seeds: int
) -> tuple[Result, pa.Table]:
    """The result of a contender and all of its steps, warm-up included."""
    tried = attempt(contender, accelerator, plan, seeds)
    result = merge(
        contender.name,
        contender.title,
        contender.note,
        tried.recordings,
        unthrottled_tokens_per_s=tried.alone.tokens_per_s if tried.alone else None,
        cpu_s_per_token=tried.alone.cpu_s_per_token if tried.alone else None,
        bounded=contender.bounded,
        resume_gap_ms=float(np.median(tried.resume_ms)) if tried.resume_ms else None,
        cards=getattr(accelerator, "cards", 1),
    )
    return result, step_table(contender.name, tried.recordings)


def attempt(contender: Contender, accelerator: Accelerator, plan: Plan, seeds: int) -> Trial:
    """Train on the contender's batches, a seed after the other; then see it alone and restored."""
    recordings: list[Recording] = []
    resumed: list[float] = []
    unheld = None
    total = seeds * (plan.steps + plan.allowance)
    with contender.ready(), Progress(contender.title, total) as progress:
        for seed in range(seeds):
            used = CpuTime()
            opened = partial(contender.open, seed)
            recording, batches = record(
                lambda opened=opened: progress.watch(opened()),  # type: ignore[misc]
                accelerator,
                plan,
                progress.step,
                seed,
            )
            epochs = tuple(each for each in contender.epochs() if each < len(recording.host))
            recordings.append(replace(recording, timeline=contender.timeline(), epochs=epochs))
            state = contender.state() if isinstance(contender, Resumable) else None
            if seed == seeds - 1 and contender.bounded:
                progress.now(f"{contender.title}, unthrottled")
                unheld = alone(batches, used)
            # Let go before the next one begins, with its threads and processes.
            del batches
            if isinstance(contender, Resumable):
                resumed.append(_resume(contender, state, seed))
    return Trial(tuple(recordings), unheld, tuple(resumed))


def _resume(contender: Resumable, state: Any, seed: int) -> float:
    """Milliseconds from opening at `state` to the first batch."""
    began = time.perf_counter_ns()
    batches = contender.resume(state, seed)
    next(batches)
    return (time.perf_counter_ns() - began) / 1e6
