"""Idle time before each step: over the window, and how it is distributed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.starvation.reports.charts.common import Figure, axis, label, layout, series
from benchmarks.starvation.reports.report import Report

# Points of a line: more would make the page heavy and show no more.
GAP_POINTS = 2000
# Shorter gaps are drawn as this long: a logarithmic axis has no zero.
SHORTEST_MS = 0.001


def over_time(report: Report) -> Figure | None:
    """A line a contender: ms idle before each measured step, by when it began; None of no gaps."""
    if not any_gap(report):
        return None
    traces = []
    for number, result in enumerate(report.results):
        kept = thin(result.figures.starts_s, result.figures.gaps_ms)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(result.title),
                "x": [x for x, _ in kept],
                "y": [y for _, y in kept],
                "line": {"width": 1.2, "color": series(number)},
                "marker": {"size": 4, "color": series(number)},
                "hovertemplate": "at %{x:.2f} s: %{y:.2f} ms<extra>%{fullData.name}</extra>",
            }
        )
    return {
        "data": traces,
        "layout": layout(
            report,
            320,
            hovermode="closest",
            xaxis=axis("seconds into the window", showgrid=False),
            yaxis=axis("ms idle before it", rangemode="tozero"),
        ),
    }


def distribution(report: Report) -> Figure | None:
    """A line a contender: the share of its steps whose gap is longer than x ms; likewise."""
    if not any_gap(report):
        return None
    traces = []
    for number, result in enumerate(report.results):
        lengths, longer = survival(result.figures.gaps_ms)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(result.title),
                "x": lengths,
                "y": longer,
                "line": {"width": 2, "shape": "hv", "color": series(number)},
                "hovertemplate": "%{y:.1f} % of the gaps are longer than %{x:.3g} ms"
                "<extra>%{fullData.name}</extra>",
            }
        )
    return {
        "data": traces,
        "layout": layout(
            report,
            320,
            hovermode="closest",
            xaxis=axis("gap, ms", type="log", dtick=1, tickformat="~g"),
            yaxis=axis("% of steps with a longer one", range=[0, 102]),
        ),
    }


def any_gap(report: Report) -> bool:
    """Whether any contender's device stood idle before any of the steps that are drawn."""
    return any(max(result.figures.gaps_ms, default=0) > 0 for result in report.results)


def survival(gaps_ms: Sequence[float]) -> tuple[list[float], list[float]]:
    """Lengths in rising order, and for each the per cent of gaps that are longer; at most
    `GAP_POINTS` of them, the longest always among them."""
    lengths, counts = np.unique(np.maximum(gaps_ms, SHORTEST_MS), return_counts=True)
    longer = 100 * (1 - np.cumsum(counts) / counts.sum())
    every = max(1, -(-len(lengths) // GAP_POINTS))
    kept = slice((len(lengths) - 1) % every, None, every)
    return lengths[kept].round(6).tolist(), longer[kept].round(6).tolist()


def thin(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `GAP_POINTS` points; of each stretch the highest, so that none is hidden."""
    points = list(zip(xs, ys, strict=True))
    every = max(1, len(points) // GAP_POINTS)
    return [
        max(points[at : at + every], key=lambda point: point[1])
        for at in range(0, len(points), every)
    ]
