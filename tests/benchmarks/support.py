"""Reports made by hand, for tests of the page."""

from __future__ import annotations

from benchmarks.starvation.explain.figures import Figures
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.reports.report import Report


def figures(stall: float, gaps: tuple[float, ...], **shares: float) -> Figures:
    return Figures(
        steps=len(gaps), window_s=20.0, stall_rate=stall, gap_rate=stall, au=1 - stall,
        padding_efficiency=1.0, goodput=1 - stall, tokens_per_s=667e3 * (1 - stall),
        demand_tokens_per_s=667e3, first_batch_s=0.08, cpu_cores=0.1, overshoot_share=0.001,
        clock_error_ns=0, shares={"compute": 1 - stall, **shares, "host": 0.0}, gap_p50_ms=0.0,
        gap_p95_ms=0.2, gap_p99_ms=1.1, gap_max_ms=max(gaps), gaps_ms=gaps,
        starts_s=tuple(number * 0.1 for number in range(len(gaps))),
    )  # fmt: skip


def report(**changes: object) -> Report:
    gaps = tuple(float((i * 37) % 71) for i in range(200))
    results = (
        Result("resident", "batch already there", "the ceiling: no input work at all",
               figures(0.0, (0.0,) * 200)),
        Result("stoker", "Stoker", "token shards, shuffled",
               figures(0.0002, (0.0,) * 199 + (1.5,), fetch=0.0001, assemble=0.0001), 45e6),
        Result("inline", "inline tokenization", "HF tokenizers, 2 worker processes",
               figures(0.41, gaps, input=0.41), 390e3),
    )  # fmt: skip
    fields: dict[str, object] = {
        "accelerator": "emulated(H100 124M seq 1024)",
        "emulated": True,
        "results": results,
        "left_out": {},
        "device": {"profile": "h100-124m", "step": "98.3 ms"},
        "data": {"dataset": "s3://tokens/v1", "tokens": "13,456,789"},
        "setup": {"steps": "200", "batch": "64 x 1024"},
        "environment": {"cpu": "AMD EPYC", "cores": "2"},
        "cards": 8,
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]
