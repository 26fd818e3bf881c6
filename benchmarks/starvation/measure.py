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

from benchmarks.starvation.accelerator import OVERSHOOT_LIMIT, Accelerator, Batch, Trace
from benchmarks.starvation.attribution import (
    COMPUTE,
    HOST,
    Attribution,
    Intervals,
    attribute,
    intervals,
)

FETCH, ASSEMBLE, QUEUE, INPUT = "fetch", "assemble", "queue", "input"
ENQUEUE, COPY = "enqueue", "copy"
# What the loop spends inside next(): the headline counts these and nothing else.
INPUT_CAUSES = (FETCH, ASSEMBLE, QUEUE, INPUT)
CAUSES = {
    COMPUTE: "the device computes",
    FETCH: "waiting for bytes that were asked for",
    ASSEMBLE: "bytes are there, the batch is being made",
    QUEUE: "the batch is made, on its way to the loop",
    INPUT: "waiting in next() for a reason the loader does not tell",
    ENQUEUE: "the host hands the batch to the device",
    COPY: "the batch travels to the device",
    HOST: "anything else the host does between steps",
}
HOST_STEP = np.dtype([("asked", np.int64), ("got", np.int64), ("submitted", np.int64)])
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


@dataclass(frozen=True)
class Recording:
    """One contender's run: HOST_STEP rows and the device's trace, a row a step, warm-up first."""

    host: np.ndarray
    trace: Trace
    warmup: int
    first_batch_ns: int
    cpu_seconds: float
    cpu_wall_seconds: float


@dataclass(frozen=True)
class Figures:
    """What one recording says; rates are 0 to 1, `*_s` seconds, T the window.

    stall_rate: idle time attributed to input / T. gap_rate: all gaps between steps / T.
    au: MLPerf Storage's compute / run time without the first step, warm-up included.
    padding_efficiency: tokens that are no padding / slots. goodput: (1 - gap_rate) x that.
    tokens_per_s: trained, without padding. demand_tokens_per_s: slots a second if never idle.
    cpu_cores: CPU seconds of this process and its children / wall seconds. overshoot_share: what
    the emulator itself may have caused / T. shares: of T, by cause. gaps_ms: before each step,
    which begins starts_s into the window.
    """

    steps: int
    window_s: float
    stall_rate: float
    gap_rate: float
    au: float
    padding_efficiency: float
    goodput: float
    tokens_per_s: float
    demand_tokens_per_s: float
    first_batch_s: float
    cpu_cores: float
    overshoot_share: float
    clock_error_ns: int
    shares: dict[str, float]
    gap_p50_ms: float
    gap_p95_ms: float
    gap_p99_ms: float
    gap_max_ms: float
    gaps_ms: tuple[float, ...]
    starts_s: tuple[float, ...]

    @property
    def valid(self) -> bool:
        """False when the emulator itself lost more of the window than its limit."""
        return self.overshoot_share <= OVERSHOOT_LIMIT


def record(
    open_batches: Callable[[], Iterator[Batch]],
    accelerator: Accelerator,
    plan: Plan,
    on_step: Callable[[int], object],
) -> tuple[Recording, Iterator[Batch]]:
    """Train on the batches as `plan` says; `on_step` gets the number of steps done.

    Returns the iterator too, so that its unthrottled rate can be taken where it stands.
    """
    rows: list[tuple[int, int, int]] = []
    opened = time.perf_counter_ns()
    batches = open_batches()
    warmup = first_batch = 0
    limit = opened + round(plan.seconds * 1e9)
    cpu, cpu_from = 0.0, opened
    while True:
        asked = time.perf_counter_ns()
        batch = next(batches)
        got = time.perf_counter_ns()
        accelerator.submit(batch)
        submitted = time.perf_counter_ns()
        del batch
        rows.append((asked, got, submitted))
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


def explain(recording: Recording, timeline: np.ndarray | None) -> Attribution:
    """The window of `recording` by cause; `timeline`: the loader's own evidence, if it has any."""
    steps, host = recording.trace.steps, recording.host
    window = (int(steps["end"][recording.warmup - 1]), int(steps["end"][-1]))
    spans = [
        *input_spans(host, timeline),
        (ENQUEUE, intervals(host["got"], host["submitted"])),
        (COPY, intervals(steps["copy_start"], steps["copy_end"])),
    ]
    return attribute(window, intervals(steps["start"], steps["end"]), spans)


def input_spans(host: np.ndarray, timeline: np.ndarray | None) -> list[tuple[str, Intervals]]:
    """The loop's waits in next(), split by what the batch it waited for was going through.

    `timeline` has a row a batch with `asked`, `arrived`, `assembled` and `delivered`, in
    nanoseconds of the host's clock; the row of a wait is the one delivered during it.
    """
    waits = intervals(host["asked"], host["got"])
    spans: list[tuple[str, Intervals]] = []
    if timeline is not None and len(timeline):
        rows = timeline[np.argsort(timeline["delivered"], kind="stable")]
        at = np.searchsorted(rows["delivered"], waits[:, 1], side="right") - 1
        known = (at >= 0) & (rows["delivered"][np.maximum(at, 0)] >= waits[:, 0])
        wait, row = waits[known], rows[at[known]]
        for cause, since, until in (
            (FETCH, row["asked"], row["arrived"]),
            (ASSEMBLE, row["arrived"], row["assembled"]),
            (QUEUE, row["assembled"], wait[:, 1]),
        ):
            spans.append(
                (cause, intervals(np.maximum(since, wait[:, 0]), np.minimum(until, wait[:, 1])))
            )
    return [*spans, (INPUT, waits)]


def figures(recording: Recording, parts: Attribution) -> Figures:
    """Every figure of one recording."""
    steps, first = recording.trace.steps, recording.warmup
    measured = steps[first:]
    gaps = np.maximum(0, measured["start"] - steps["end"][first - 1 : -1])
    busy = measured["end"] - measured["start"]
    gap_rate = parts.idle / max(1, parts.window)
    padding = measured["tokens"].sum() / measured["slots"].sum()
    p50, p95, p99 = np.percentile(gaps, (50, 95, 99)) / 1e6
    return Figures(
        steps=len(measured),
        window_s=parts.window / 1e9,
        stall_rate=parts.share(*INPUT_CAUSES),
        gap_rate=gap_rate,
        au=utilization(steps),
        padding_efficiency=float(padding),
        goodput=float((1 - gap_rate) * padding),
        tokens_per_s=float(measured["tokens"].sum() / (parts.window / 1e9)),
        demand_tokens_per_s=float(measured["slots"].sum() / (busy.sum() / 1e9)),
        first_batch_s=recording.first_batch_ns / 1e9,
        cpu_cores=recording.cpu_seconds / recording.cpu_wall_seconds,
        overshoot_share=float(measured["overshoot"].sum() / max(1, parts.window)),
        clock_error_ns=recording.trace.clock_error_ns,
        shares={cause: parts.share(cause) for cause in parts.nanoseconds},
        gap_p50_ms=float(p50),
        gap_p95_ms=float(p95),
        gap_p99_ms=float(p99),
        gap_max_ms=float(gaps.max() / 1e6),
        gaps_ms=tuple((gaps / 1e6).round(3).tolist()),
        starts_s=tuple(((measured["start"] - steps["end"][first - 1]) / 1e9).round(4).tolist()),
    )


def utilization(steps: np.ndarray) -> float:
    """MLPerf Storage's accelerator utilization: compute over run time, the first step left out."""
    if len(steps) < 2:
        return float("nan")
    compute = (steps["end"] - steps["start"])[1:].sum()
    return float(compute / max(1, steps["end"][-1] - steps["end"][0]))


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
