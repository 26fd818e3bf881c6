"""The figures of one recording, by the formulas of the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.starvation.explain.attribution import Attribution
from benchmarks.starvation.explain.causes import INPUT_CAUSES, NOT_SEPARABLE
from benchmarks.starvation.loop.recording import Recording

# More than 1 % of the window lost by the emulator itself: the figures would be about the emulator.
OVERSHOOT_LIMIT = 0.01
BURST = 0.05


@dataclass(frozen=True)
class Figures:
    """What one recording says; rates are 0 to 1, `*_s` seconds, T the window.

    stall_rate: idle time attributed to input / T. gap_rate: all gaps between steps / T.
    au: MLPerf Storage's compute / run time without the first step, warm-up included.
    padding_efficiency: tokens that are no padding / slots. goodput: (1 - gap_rate) x that.
    tokens_per_s: trained, without padding. demand_tokens_per_s: slots a second if never idle.
    cpu_cores: CPU seconds of this process and its children / wall seconds. overshoot_share: what
    the emulator itself may have caused / T. shares: of T, by cause. gaps_ms: before each step,
    which begins starts_s into the window; of several seeds those of the one that is drawn.
    longest_burst_steps: most steps one after the other that waited for input for more than 5 % of
    their period.
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
    longest_burst_steps: int = 0

    @property
    def valid(self) -> bool:
        """False when the emulator itself lost more of the window than its limit."""
        return self.overshoot_share <= OVERSHOOT_LIMIT


def figures(recording: Recording, parts: Attribution) -> Figures:
    """Every figure of one recording."""
    steps, first = recording.trace.steps, recording.warmup
    measured = steps[first:]
    gaps = parts.gaps
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
        demand_tokens_per_s=float(measured["slots"].sum() / max(1e-9, parts.working.sum() / 1e9)),
        first_batch_s=recording.first_batch_ns / 1e9,
        cpu_cores=recording.cpu_seconds / recording.cpu_wall_seconds,
        overshoot_share=float(measured["overshoot"].sum() / max(1, parts.window)),
        clock_error_ns=recording.trace.clock_error_ns,
        shares={cause: parts.share(cause) for cause in parts.nanoseconds},
        longest_burst_steps=_longest(parts.column(*INPUT_CAUSES) > BURST * parts.steps.sum(axis=1)),
        gap_p50_ms=float(p50),
        gap_p95_ms=float(p95),
        gap_p99_ms=float(p99),
        gap_max_ms=float(gaps.max() / 1e6),
        gaps_ms=tuple((gaps / 1e6).round(3).tolist()),
        starts_s=tuple(((measured["start"] - steps["end"][first - 1]) / 1e9).round(4).tolist()),
    )


def _longest(starved: np.ndarray) -> int:
    """The longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], starved.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def utilization(steps: np.ndarray) -> float:
    """MLPerf Storage's accelerator utilization: compute over run time, the first step left out."""
    if len(steps) < 2:
        return float("nan")
    compute = (steps["end"] - steps["start"])[1:].sum()
    return float(compute / max(1, steps["end"][-1] - steps["end"][0]))


def columns(recordings: Sequence[Recording], parts: Sequence[Attribution]) -> dict[str, np.ndarray]:
    """Per measured step, float64, means over the ranks of one seed: what `RATES` are made of.

    `period`, `gap`, `input`: nanoseconds from the end of the step before to this one's, idle, in
    next(). `tokens`, `slots`: of the batch.
    """
    steps = min(len(each.steps) for each in parts)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("period", "gap", "input")}
    rows |= {"tokens": [], "slots": []}
    for recording, part in zip(recordings, parts, strict=True):
        measured = recording.trace.steps[recording.warmup :][:steps]
        period = part.steps[:steps].sum(axis=1)
        rows["period"].append(period)
        rows["gap"].append(part.gaps[:steps])
        rows["input"].append(part.column(*INPUT_CAUSES)[:steps])
        rows["tokens"].append(measured["tokens"])
        rows["slots"].append(measured["slots"])
    return {name: np.mean(each, axis=0) for name, each in rows.items()}


# `au` is without the warm-up here, which MLPerf's counts.
RATES: dict[str, Callable[[Mapping[str, np.ndarray]], float]] = {
    "stall_rate": lambda c: _ratio(c["input"], c["period"]),
    "gap_rate": lambda c: _ratio(c["gap"], c["period"]),
    "au": lambda c: 1 - _ratio(c["gap"], c["period"]),
    "goodput": lambda c: (1 - _ratio(c["gap"], c["period"])) * _ratio(c["tokens"], c["slots"]),
    "tokens_per_s": lambda c: 1e9 * _ratio(c["tokens"], c["period"]),
    "step_ms": lambda c: float(np.median(c["period"]) / 1e6),
    "gap_p99_ms": lambda c: float(np.percentile(c["gap"], 99) / 1e6),
}


def straggler_loss(parts: Sequence[Attribution]) -> float | None:
    """1 - mean(median over ranks of own work) / mean(max); own work: a period without their waits.

    None where there is one rank, or where steps don't show what they waited for.
    """
    if len(parts) < 2 or any(each.nanoseconds.get(NOT_SEPARABLE) for each in parts):
        return None
    steps = min(len(each.steps) for each in parts)
    own = np.stack([each.own[:steps] for each in parts])
    return float(1 - np.median(own, axis=0).mean() / max(1.0, own.max(axis=0).mean()))


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / max(1.0, whole.sum()))
