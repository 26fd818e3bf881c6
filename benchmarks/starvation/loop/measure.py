"""The training loop that is measured, and the figures made from what it saw.

The host writes down when it asked for a batch, got it and had it enqueued; the device when it
copied and computed. Everything else is arithmetic on those times. The window runs from the end of
the last warm-up step to the end of the last measured step, so it holds as many gaps as steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.starvation.cards.accelerator import Accelerator, Batch
from benchmarks.starvation.explain.statistics import BATCH, warmup_steps
from benchmarks.starvation.loop.cpu_time import CpuTime, Look
from benchmarks.starvation.loop.recording import HOST_STEP, Recording
from benchmarks.starvation.loop.watching import Watch

UNTHROTTLED_SECONDS = 2.0
UNTHROTTLED_SKIP = 4
UNTHROTTLED_BATCHES = 16


@dataclass(frozen=True)
class Plan:
    """How long to measure: `steps` behind the warm-up, but neither for longer than `seconds`.

    `warmup` None: found by MSER-5 on the steps' times, of a quarter more steps, at least 20, and
    as many again where it takes longer.
    """

    steps: int = 200
    warmup: int | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup == 0 or (self.warmup or 1) < 1 or not self.seconds > 0:
            raise ValueError(
                f"steps={self.steps}, warmup={self.warmup}, seconds={self.seconds}: at least one"
                " step of each, since the window opens when a warm-up step ends, and time for them"
            )

    @property
    def allowance(self) -> int:
        """Steps that the warm-up is expected to be over in."""
        return max(20, self.steps // 4) if self.warmup is None else self.warmup

    def over(self, ends: Sequence[int], began: int) -> bool:
        """Whether a loop that began at `began` and whose steps ended at `ends` may stop."""
        if ends[-1] - began > 2e9 * self.seconds and len(ends) > 1:
            return True
        wanted = self.steps + self.allowance
        if len(ends) < wanted or self.warmup is not None:
            return len(ends) >= wanted
        if len(ends) == wanted or len(ends) % BATCH == 0:
            found = warmup_in(np.diff(ends))
            return len(ends) >= min(found, 2 * self.allowance) + self.steps
        return False


def warmup_in(periods: np.ndarray) -> int:
    """Steps before the window, at least one: those that MSER-5 leaves out of `periods`.

    `periods`: from each step's end to the next one's, so one less than there are steps.
    """
    return 1 + warmup_steps(periods)


def record(
    open_batches: Callable[[], Iterator[Batch]],
    accelerator: Accelerator,
    plan: Plan,
    on_step: Callable[[int], object],
    seed: int = 0,
) -> tuple[Recording, Iterator[Batch]]:
    """Train on the batches as `plan` says; `on_step` gets the number of steps done.

    Returns the iterator too, so that its unthrottled rate can be taken where it stands.
    """
    rows: list[tuple[int, int, int, int]] = []
    ends: list[int] = []
    used = CpuTime()
    opened = time.perf_counter_ns()
    batches = open_batches()
    watch, overhead, worked = Watch(), 0, 0
    look = Look(used, beside=False)
    watch.start()
    try:
        while not ends or not plan.over(ends, opened):
            overhead += time.thread_time_ns() - worked if ends else 0
            asked = time.perf_counter_ns()
            batch = next(batches)
            got = time.perf_counter_ns()
            handed = accelerator.submit(batch)
            submitted, worked = time.perf_counter_ns(), time.thread_time_ns()
            del batch
            rows.append((asked, got, handed or submitted, submitted))
            ends.append(submitted)
            watch.step(len(rows) - 1)
            on_step(len(rows))
            if len(rows) == plan.allowance:
                look = Look(used)
    finally:
        watch.stop()
    cpu_wall = (time.perf_counter_ns() - look.at_ns) / 1e9
    cpu = max(0.0, used.seconds() - look.seconds())
    trace = accelerator.finish()
    # By the device's times, which differ a little from those by which the loop was ended.
    found = min(warmup_in(np.diff(trace.steps["end"])), max(1, len(rows) - plan.steps))
    warmup = plan.warmup or found
    recording = Recording(
        host=np.array(rows, dtype=HOST_STEP),
        trace=trace,
        # Time was over inside the warm-up: half of what there is has to do.
        warmup=warmup if warmup < len(rows) else max(1, len(rows) // 2),
        first_batch_ns=rows[0][1] - opened,
        cpu_seconds=cpu,
        cpu_wall_seconds=cpu_wall,
        spans=watch.spans,
        pressure=watch.pressure,
        seed=seed,
        overhead_ns=overhead,
    )
    return recording, batches


@dataclass(frozen=True)
class Alone:
    """A loader that nothing holds back: token positions a second, CPU seconds a position."""

    tokens_per_s: float
    cpu_s_per_token: float


def unthrottled(batches: Iterator[Batch], seconds: float = UNTHROTTLED_SECONDS) -> float:
    """Token positions per second that the loader gives when nothing holds it back."""
    return alone(batches, CpuTime(), seconds).tokens_per_s


def alone(batches: Iterator[Batch], used: CpuTime, seconds: float = UNTHROTTLED_SECONDS) -> Alone:
    """What the loader gives when nothing holds it back, and the CPU that it takes by `used`.

    Over at least `seconds` and, unless that takes three times as long, `UNTHROTTLED_BATCHES`:
    worker processes deliver in bursts. What was ready before is not counted.
    """
    for _ in range(UNTHROTTLED_SKIP):
        next(batches)
    cpu = used.seconds()
    started = now = time.perf_counter()
    slots = count = 0
    while now - started < seconds or (count < UNTHROTTLED_BATCHES and now - started < 3 * seconds):
        slots += next(batches)["input_ids"].numel()
        count += 1
        now = time.perf_counter()
    return Alone(slots / (now - started), (used.seconds() - cpu) / slots)
