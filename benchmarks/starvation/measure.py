"""The training loop that is measured, and the figures made from what it saw.

The host writes down when it asked for a batch, got it and had it enqueued; the device when it
copied and computed. Everything else is arithmetic on those times. The window runs from the end of
the last warm-up step to the end of the last measured step, so it holds as many gaps as steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.starvation.accelerator import Accelerator, Batch
from benchmarks.starvation.recording import HOST_STEP, Recording

UNTHROTTLED_SECONDS = 2.0
UNTHROTTLED_SKIP = 4
UNTHROTTLED_BATCHES = 16


@dataclass(frozen=True)
class Plan:
    """How long to measure: `warmup` steps, then `steps`, but no longer than `seconds` of either."""

    steps: int
    warmup: int
    seconds: float

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 1 or not self.seconds > 0:
            raise ValueError(
                f"steps={self.steps}, warmup={self.warmup}, seconds={self.seconds}: at least one"
                " step of each, since the window opens when a warm-up step ends, and time for them"
            )


def record(
    open_batches: Callable[[], Iterator[Batch]],
    accelerator: Accelerator,
    plan: Plan,
    on_step: Callable[[int], object],
) -> tuple[Recording, Iterator[Batch]]:
    """Train on the batches as `plan` says; `on_step` gets the number of steps done.

    Returns the iterator too, so that its unthrottled rate can be taken where it stands.
    """
    rows: list[tuple[int, int, int, int]] = []
    opened = time.perf_counter_ns()
    batches = open_batches()
    warmup = first_batch = 0
    limit = opened + round(plan.seconds * 1e9)
    cpu, cpu_from = 0.0, opened
    while True:
        asked = time.perf_counter_ns()
        batch = next(batches)
        got = time.perf_counter_ns()
        handed = accelerator.submit(batch)
        submitted = time.perf_counter_ns()
        del batch
        rows.append((asked, got, handed or submitted, submitted))
        first_batch = first_batch or got - opened
        on_step(len(rows))
        if not warmup:
            if len(rows) == plan.warmup or submitted > limit:
                warmup = len(rows)
                limit = submitted + round(plan.seconds * 1e9)
                cpu, cpu_from = _cpu_seconds(), submitted
        elif len(rows) == warmup + plan.steps or submitted > limit:
            break
    cpu, cpu_wall = _cpu_seconds() - cpu, (time.perf_counter_ns() - cpu_from) / 1e9
    trace = accelerator.finish()
    host = np.array(rows, dtype=HOST_STEP)
    return Recording(host, trace, warmup, first_batch, cpu, cpu_wall), batches


def unthrottled(batches: Iterator[Batch], seconds: float = UNTHROTTLED_SECONDS) -> float:
    """Token positions per second that the loader gives when nothing holds it back.

    Over at least `seconds` and, unless that takes three times as long, `UNTHROTTLED_BATCHES`:
    worker processes deliver in bursts. What was ready before is not counted.
    """
    for _ in range(UNTHROTTLED_SKIP):
        next(batches)
    started = now = time.perf_counter()
    slots = count = 0
    while now - started < seconds or (count < UNTHROTTLED_BATCHES and now - started < 3 * seconds):
        slots += next(batches)["input_ids"].numel()
        count += 1
        now = time.perf_counter()
    return slots / (now - started)


def _cpu_seconds() -> float:
    """CPU time of this process and its living children since they began."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
