"""A contender's recordings, of all seeds and ranks, as one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import groupby

import numpy as np

from benchmarks.starvation.explain.advice import advise
from benchmarks.starvation.explain.attribution import Attribution
from benchmarks.starvation.explain.causes import CAUSES, GC, INPUT_CAUSES
from benchmarks.starvation.explain.evidence import cannot_see, explain
from benchmarks.starvation.explain.figures import RATES, Figures, columns, figures, straggler_loss
from benchmarks.starvation.explain.ranks import split_waits
from benchmarks.starvation.explain.result import Result, Run, WorkersPoint
from benchmarks.starvation.explain.statistics import estimate, spread
from benchmarks.starvation.explain.timeline import first_steps
from benchmarks.starvation.loop.recording import Recording

# The accelerator utilization that `cores_to_feed` is for.
FED_AU = 0.99
Measured = tuple[Recording, Attribution]


def attributions(recordings: Sequence[Recording]) -> list[list[Measured]]:
    """Seed by seed, rank by rank: each recording with its window split by cause."""

    def seed(recording: Recording) -> int:
        return recording.seed

    ordered = sorted(recordings, key=lambda each: (each.seed, each.rank))
    return [
        [(each, explain(each)) for each in split_waits(list(ranks))]
        for _, ranks in groupby(ordered, key=seed)
    ]


def merge(
    name: str,
    title: str,
    note: str,
    recordings: Sequence[Recording],
    *,
    unthrottled_tokens_per_s: float | None = None,
    bounded: bool = True,
    cpu_s_per_token: float | None = None,
    resume_gap_ms: float | None = None,
    workers: Sequence[WorkersPoint] = (),
    cards: int = 1,
) -> Result:
    """One result of all `recordings`, at least one; figures and estimates are those of a rank.

    `bounded`: False for a contender that does no work, of which nothing needs to be seen.
    `cpu_s_per_token`: what the loader takes when nothing holds it back; `cores_to_feed` is that
    times 99 % of what one of the `cards` demands.
    """
    seeds = attributions(recordings)
    everyone = [measured for ranks in seeds for measured in ranks]
    parts = [part for _, part in everyone]
    middle = _middle(seeds)
    shown = seeds[middle][0][0]
    causes = _added([part.nanoseconds for part in parts])
    window = sum(part.window for part in parts)
    tables = [columns(*zip(*ranks, strict=True)) for ranks in seeds]
    losses = [straggler_loss([part for _, part in ranks]) for ranks in seeds]
    shares = {cause: ns / max(1, window) for cause, ns in causes.items()}
    said = [[figures(*measured) for measured in ranks] for ranks in seeds]
    merged = _merged(said, said[middle][0], shares)
    overhead = sum(recording.overhead_ns for recording, _ in everyone)
    result = Result(
        name,
        title,
        note,
        merged,
        unthrottled_tokens_per_s,
        bounded=bounded,
        estimates=estimate(tables, RATES),
        window_ns=window,
        causes=causes,
        cannot_see=cannot_see(shown.timeline) if bounded else (),
        runs=tuple(_run(*measured) for measured in everyone),
        spread=spread([float(table["period"].mean()) for table in tables]),
        straggler_loss=None if None in losses else float(np.median(np.array(losses, float))),
        padding_lost=1 - merged.padding_efficiency,
        epoch_edge_gap_ms=_epoch_edge(everyone),
        resume_gap_ms=resume_gap_ms,
        cores_to_feed=_cores(cpu_s_per_token, merged.demand_tokens_per_s / cards),
        workers=tuple(sorted(workers, key=lambda point: point.workers)),
        overhead_share=overhead / max(1, _recorded(everyone)),
        counters=_counters(everyone),
        timeline=first_steps(shown),
    )
    return replace(result, advice=advise(result))


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {
        cause: sum(part.get(cause, 0) for part in parts)
        for cause in CAUSES
        if any(cause in part for part in parts)
    }


def _run(recording: Recording, parts: Attribution) -> Run:
    said = figures(recording, parts)
    return Run(
        seed=recording.seed,
        rank=recording.rank,
        steps=len(parts.steps),
        warmup=recording.warmup,
        window_ns=parts.window,
        causes=parts.nanoseconds,
        stall_rate=said.stall_rate,
        tokens_per_s=said.tokens_per_s,
        own_work_ms=float(np.median(parts.own) / 1e6),
        clock_error_ns=recording.trace.clock_error_ns,
    )


def _middle(seeds: Sequence[Sequence[Measured]]) -> int:
    """The place of the seed whose stall rate is the median of all, of an even number the lower."""
    rates = [np.mean([part.share(*INPUT_CAUSES) for _, part in ranks]) for ranks in seeds]
    return sorted(range(len(seeds)), key=rates.__getitem__)[(len(seeds) - 1) // 2]


def _merged(
    seeds: Sequence[Sequence[Figures]], shown: Figures, shares: dict[str, float]
) -> Figures:
    """Medians over seeds of means over ranks; the gaps of `shown`; the worst disturbance."""
    everyone = [each for ranks in seeds for each in ranks]
    numbers: dict[str, float] = {}
    for field in fields(Figures):
        if field.type == "float":
            means = [np.mean([getattr(each, field.name) for each in ranks]) for ranks in seeds]
            numbers[field.name] = float(np.median(means))
    longest = max(each.longest_burst_steps for each in everyone)
    numbers["overshoot_share"] = max(each.overshoot_share for each in everyone)
    return replace(
        shown,
        **numbers,  # type: ignore[arg-type]
        steps=min(each.steps for each in everyone),
        longest_burst_steps=longest,
        clock_error_ns=max(each.clock_error_ns for each in everyone),
        shares=shares,
    )


def _epoch_edge(everyone: Sequence[Measured]) -> float | None:
    """The longest gap before an epoch's first step in any window, ms."""
    gaps = [
        int(parts.gaps[step - recording.warmup])
        for recording, parts in everyone
        for step in recording.epochs
        if recording.warmup <= step < recording.warmup + len(parts.gaps)
    ]
    return max(gaps) / 1e6 if gaps else None


def _cores(cpu_s_per_token: float | None, demand_tokens_per_s: float) -> float | None:
    """CPU cores that a card needs for `FED_AU`; None where nobody knows."""
    return None if cpu_s_per_token is None else FED_AU * demand_tokens_per_s * cpu_s_per_token


def _recorded(everyone: Sequence[Measured]) -> int:
    """Nanoseconds of all recordings, warm-up included: what the overhead was spent in."""
    return sum(int(each.host["submitted"][-1] - each.host["asked"][0]) for each, _ in everyone)


def _counters(everyone: Sequence[Measured]) -> dict[str, float]:
    """What the kernel, Python and the allocator counted, all runs together."""
    pressure = np.concatenate([each.pressure for each, _ in everyone])
    spans = np.concatenate([each.spans for each, _ in everyone])
    gc = spans[spans["cause"] == GC]
    return {
        "major_faults": float(pressure["faults"].sum()),
        "memory_stalled_ms": float(pressure["stalled"].sum() / 1e6),
        "allocator_retries": float(pressure["retries"].sum()),
        "gc_collections": float(len(gc)),
        "gc_ms": float((gc["stop"] - gc["start"]).sum() / 1e6),
    }
