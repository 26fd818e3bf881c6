"""`example_report()`: a report with every field filled, for tests of what reads reports."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.starvation.deck.result import Deck, DeckCard, DeckEpoch, DeckTime
from benchmarks.starvation.explain.causes import CALLED, CAUSES, COMPUTE
from benchmarks.starvation.explain.figures import Figures
from benchmarks.starvation.explain.result import (
    Advice,
    Control,
    Ladder,
    Level,
    Result,
    Run,
    Span,
    Timeline,
    WorkersPoint,
)
from benchmarks.starvation.explain.statistics import Estimate
from benchmarks.starvation.reports.prices import PRICES
from benchmarks.starvation.reports.report import Report

STEPS, STEP_MS = 200, 100.0
WINDOW_NS = round(STEPS * STEP_MS * 1e6)


def example_report() -> Report:
    """Three contenders on 2 ranks and 3 seeds: fed, a little starved, badly starved."""
    resident = example_result("resident", "batch already there", {"host": 0.001})
    stoker = example_result(
        "stoker", "Stoker", {"fetch": 0.0060, "assemble": 0.0020, "queue": 0.0010, "h2d": 0.0010},
        unthrottled=45e6,
    )  # fmt: skip
    every = {
        "communication": 0.040, "straggler": 0.020, "not_separable": 0.004, "fetch": 0.020,
        "prep": 0.180, "workers": 0.030, "assemble": 0.010, "queue": 0.004, "input": 0.002,
        "h2d": 0.012, "checkpoint": 0.010, "gc": 0.003, "memory": 0.005, "host": 0.006,
    }  # fmt: skip
    inline = replace(
        example_result("inline", "inline tokenization", every, unthrottled=390e3, padding=0.75),
        cannot_see=("fetch", "prep", "workers", "assemble"),
        advice=(
            Advice(
                "prep", *CALLED["prep"], 0.18, "73 % of the stall; 2 of 2 workers always busy",
                "Tokenize once, ahead of training, or give it 12 workers.",
            ),
            Advice(
                "padding", *CALLED["padding"], 0.75, "3,382 of 4,509 slots a row are padding",
                "Pack documents into rows.",
            ),
        ),
        workers=(
            WorkersPoint(0, 120e3, 0.18, 0.82),
            WorkersPoint(1, 200e3, 0.30, 0.70),
            WorkersPoint(2, 390e3, 0.58, 0.42),
            WorkersPoint(8, 400e3, 0.60, None),
        ),
        cores_to_feed=3.4,
    )  # fmt: skip
    return Report(
        accelerator="emulated(H100 124M seq 1024, time x 0.04)",
        emulated=True,
        results=(replace(resident, unthrottled_tokens_per_s=None), stoker, inline),
        left_out={"MosaicML Streaming": "not installed: make peers"},
        device={"profile": "h100-124m", "step": "98.3 ms"},
        data={"dataset": "s3://tokens/v1", "tokens": "13,456,789", "data : RAM": "0.02"},
        setup={"steps": "200", "seeds": "3", "batch": "64 x 1024"},
        environment={"cpu": "AMD EPYC", "cores": "2", "git": "3e61d6c"},
        cards=8,
        job={"tokens/s": "9.1 M"},
        price=PRICES["p5.48xlarge"],
        ladder=_ladder(),
        controls=_controls(),
        calibration="uncalibrated",
        asked_steps=STEPS,
    )


def example_deck() -> Deck:
    """The deck's loop on one card, with round numbers."""
    padded = DeckEpoch(
        "padded", "the deck's collate", 500, 8000, 2_240_000, 560_000, 552_000, 0.25, 280.0
    )
    packed = DeckEpoch("packed", "Stoker, packed", 70, 1100, 563_200, 560_070, 552_069, 0.99, 512.0)
    times = (
        DeckTime("padded", 0.5, 250.0, _about(2208.0), _about(0.001), 2295, 1147.5),
        DeckTime("packed", 0.9, 63.0, _about(8763.0), _about(0.0), 316, 289.2),
    )
    card = DeckCard(
        "l40s-1b-deck", "emulated(L40S 1B padded to 280, time x 0.04)", True,
        "the deck's wall time", times, _about(3.97),
    )  # fmt: skip
    return Deck(
        rows=8000, empty_rows=2700, train_rows=36_718, max_length=512, batch_size=16,
        text_tokens=552_070, cut_rows=1, cut_tokens=70, missing=0, extra=69, not_predicted=1,
        crossing=6901, per_slot=3.98, epochs=(padded, packed), cards=(card,),
    )  # fmt: skip


def changed_report() -> Report:
    """Of the example's contenders Stoker has become better and worse, and inline is unstable."""
    base = example_report()
    resident, stoker, inline = base.results
    estimates = {
        **stoker.estimates,
        "stall_rate": Estimate(0.001, 0.0009, 0.0011),
        "tokens_per_s": Estimate(9e5, 8.9e5, 9.1e5),
        "step_ms": Estimate(140.0, 139.0, 141.0),
    }
    return replace(
        base,
        results=(resident, replace(stoker, estimates=estimates), replace(inline, spread=0.2)),
        environment={"cpu": "Graviton", "cores": "2", "git": "another"},
    )


def example_result(
    name: str,
    title: str,
    shares: dict[str, float],
    *,
    unthrottled: float = 45e6,
    padding: float = 0.0,
) -> Result:
    """A contender whose six windows of 20 s each have these shares; compute is the rest."""
    causes = {cause: round(share * WINDOW_NS) for cause, share in shares.items()}
    causes = {COMPUTE: WINDOW_NS - sum(causes.values()), **causes}
    causes = {cause: causes[cause] for cause in CAUSES if cause in causes}
    stall = sum(shares.get(c, 0.0) for c in ("fetch", "prep", "workers", "assemble", "queue"))
    stall += shares.get("input", 0.0)
    idle = sum(shares.values()) - sum(
        shares.get(c, 0.0) for c in ("communication", "straggler", "not_separable")
    )
    gaps = tuple(round(idle * STEP_MS * (0.5 + (at * 37 % 71) / 70), 3) for at in range(STEPS))
    tokens = 667e3 * (1 - idle) * (1 - padding)
    figures = Figures(
        steps=STEPS, window_s=WINDOW_NS / 1e9, stall_rate=stall, gap_rate=idle, au=1 - idle,
        padding_efficiency=1 - padding, goodput=(1 - idle) * (1 - padding), tokens_per_s=tokens,
        demand_tokens_per_s=667e3, first_batch_s=0.08, cpu_cores=0.1, overshoot_share=0.001,
        clock_error_ns=1200, shares={cause: ns / WINDOW_NS for cause, ns in causes.items()},
        gap_p50_ms=sorted(gaps)[STEPS // 2], gap_p95_ms=sorted(gaps)[-10],
        gap_p99_ms=sorted(gaps)[-2], gap_max_ms=max(gaps), gaps_ms=gaps,
        longest_burst_steps=STEPS if stall > 0.05 else 0,
        starts_s=tuple(round(at * STEP_MS / 1e3, 4) for at in range(STEPS)),
    )  # fmt: skip
    runs = tuple(
        Run(seed, rank, STEPS, 12 + seed, WINDOW_NS, causes, stall, tokens, 70.0 + rank, 1200)
        for seed in range(3)
        for rank in range(2)
    )
    return Result(
        name,
        title,
        "half a line of how it works",
        figures,
        unthrottled,
        estimates={
            "stall_rate": _about(stall),
            "gap_rate": _about(idle),
            "au": _about(1 - idle),
            "goodput": _about(figures.goodput),
            "tokens_per_s": _about(tokens),
            "step_ms": _about(STEP_MS),
            "gap_p99_ms": _about(figures.gap_p99_ms),
        },
        window_ns=len(runs) * WINDOW_NS,
        causes={cause: len(runs) * ns for cause, ns in causes.items()},
        runs=runs,
        spread=0.012,
        straggler_loss=0.02,
        padding_lost=padding,
        epoch_edge_gap_ms=31.0,
        resume_gap_ms=240.0,
        overhead_share=0.0011,
        counters={"nvml_gpu": 0.97, "sm_active": 0.61, "major_faults": 3, "gc_collections": 4},
        timeline=_timeline(shares),
    )


def _about(value: float) -> Estimate:
    return Estimate(value, value * 0.97, value * 1.03)


def _timeline(shares: dict[str, float]) -> Timeline:
    spans: list[Span] = []
    for step in range(20):
        at = step * STEP_MS
        begin, inside = at, ("communication", "straggler", "not_separable")
        for cause, share in shares.items():
            if cause not in inside:
                spans.append(Span("device", cause, step, at, at + share * STEP_MS))
                at += share * STEP_MS
        spans.append(Span("host", "next", step, begin, at))
        spans.append(Span("copy", "h2d", step, at - 0.2, at))
        waits = sum(shares.get(cause, 0.0) for cause in inside) * STEP_MS
        end = begin + STEP_MS
        spans.append(Span("device", "compute", step, at, end - waits))
        spans.append(Span("host", "step", step, at, at + 1.0))
        at = end - waits
        for cause in inside:
            if cause in shares:
                spans.append(Span("device", cause, step, at, at + shares[cause] * STEP_MS))
                at += shares[cause] * STEP_MS
    return Timeline(seed=0, rank=0, steps=20, spans=tuple(spans))


def _ladder() -> Ladder:
    levels = (
        Level("L0", "batch resident on the device", (), _about(98.0)),
        Level("L1", "pinned batch and copy", ("h2d",), _about(98.2), 0.002, 0.001),
        Level(
            "L2", "loader over memory", ("prep", "assemble", "queue"), _about(98.5), 0.003, 0.003
        ),
        Level("L3", "loader over warm local shards", ("fetch",), _about(98.6), 0.001, 0.002),
        Level("L4", "loader over S3, cold", ("fetch",), _about(100.0), 0.014, 0.006),
    )
    why = "a copy of 40 GB has no room in /tmp, where 20 GB are free"
    return Ladder("stoker", levels, difference=0.008, left_out={"L5": why})


def _controls() -> tuple[Control, ...]:
    return (
        Control("clean", "nothing", "nothing", None, 0.0, 0.0, True, {"host": 0.01}),
        Control("latency", "I/O latency", "200 ms first byte", "fetch", 61.0, 0.97, True,
                {"fetch": 59.2, "queue": 1.8}),
        Control("slow link", "PCIe", "2 MB/s link", "h2d", 40.0, 0.71, False,
                {"h2d": 28.4, "host": 11.6}),
    )  # fmt: skip
