"""How much faster than needed a loader is, and what more workers bring."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.starvation.explain.result import Result, knee
from benchmarks.starvation.reports.charts.common import (
    Figure,
    axis,
    layout,
    names_axis,
    plain,
    series,
)
from benchmarks.starvation.reports.report import Report, number


def headroom(report: Report) -> Figure | None:
    """A bar a contender: unthrottled rate over demand, 1 marked; None if nobody has a speed."""
    results = [r for r in report.results[::-1] if r.headroom is not None]
    if not results:
        return None
    values = [round(r.headroom or 0.0, 4) for r in results]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": list(range(len(results))),
        "marker": {"color": ["--bad" if value < 1 else "--good" for value in values]},
        "text": [f"{number(value)}x" for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{x:,.3~r} times the demand<extra></extra>",
        "showlegend": False,
    }
    return {
        "data": [trace],
        "layout": layout(
            report,
            120 + 46 * len(results),
            bargap=0.38,
            # Room for the figure behind the longest bar, and for 1 wherever the bars are.
            xaxis=axis("times the demand", type="log", dtick=1, range=_decades(values)),
            yaxis=names_axis([r.title for r in results]),
            shapes=[_mark("x", 1.0)],
        ),
    }


def workers(report: Report, result: Result) -> Figure | None:
    """Headroom (and stall rate where it was measured) by number of workers, the knee marked."""
    rows = sorted(result.workers, key=lambda point: point.workers)
    bend = knee(rows)
    if bend is None:
        return None
    colour = series(1)
    tried = [row for row in rows if row.stall_rate is not None]
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "headroom",
            "x": [row.workers for row in rows],
            "y": [round(row.headroom, 4) for row in rows],
            "line": {"width": 2, "color": colour},
            "marker": {"size": 7, "color": colour},
            "hovertemplate": "%{x} workers: %{y:,.3~r} times the demand<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": "knee",
            "x": [bend.workers],
            "y": [round(bend.headroom, 4)],
            "text": [f"knee: {bend.workers}"],
            "textposition": "top center",
            "marker": {"size": 15, "symbol": "circle-open", "color": "--ember"},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "starved, %",
            "x": [row.workers for row in tried],
            "y": [round(100 * (row.stall_rate or 0.0), 4) for row in tried],
            "yaxis": "y2",
            "line": {"width": 1.5, "dash": "dot", "color": "--input"},
            "marker": {"size": 6, "color": "--input"},
            "hovertemplate": "%{x} workers: starved %{y:.1f} %<extra></extra>",
        },
    ]
    return {
        "data": traces if tried else traces[:2],
        "layout": layout(
            report,
            340,
            xaxis=axis(
                plain(f"workers of {result.title[:40]}"), tickvals=[row.workers for row in rows]
            ),
            yaxis=axis("times the demand", rangemode="tozero"),
            yaxis2=axis(
                "starved, %",
                overlaying="y",
                side="right",
                range=[0, 105],
                showgrid=False,
                tickvals=[0, 25, 50, 75, 100],
            ),
            shapes=[_mark("y", 1.0)],
        ),
    }


def _decades(values: Sequence[float]) -> list[float]:
    """The range of a logarithmic axis, in powers of ten."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(0.5, *known)), math.log10(max(1.0, *known))
    return [low - 0.15, high + 0.16 * (high - low + 0.3)]


def _mark(along: str, at: float) -> Figure:
    """A dashed line through the whole picture, where `along` is `at`."""
    across = {"x": "y", "y": "x"}[along]
    line = {"dash": "dash", "width": 1.5, "color": "--soft"}
    return {
        "type": "line",
        f"{along}0": at,
        f"{along}1": at,
        f"{across}ref": "paper",
        f"{across}0": 0,
        f"{across}1": 1,
        "line": line,
    }
