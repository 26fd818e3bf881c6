"""The differential ladder beside the attribution: two ways to the same figures."""

from __future__ import annotations

from benchmarks.starvation.reports.charts.common import Figure, axis, label, layout, points
from benchmarks.starvation.reports.report import Report


def ladder(report: Report) -> Figure | None:
    """Two bars a level: what it adds to a step, and what was attributed to its causes."""
    if report.ladder is None:
        return None
    levels = [level for level in report.ladder.levels if level.added is not None]
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": [label(level.level) for level in levels],
            "y": [points(value or 0.0) for value in values],
            "marker": {"color": colour},
            "hovertemplate": f"%{{x}}: %{{y:.2f}} points {name}<extra></extra>",
        }
        for name, colour, values in (
            ("ladder", "--series-1", [level.added for level in levels]),
            ("attribution", "--series-2", [level.attributed for level in levels]),
        )
    ]
    return {
        "data": traces,
        "layout": layout(
            report,
            300,
            barmode="group",
            bargap=0.4,
            xaxis=axis(showgrid=False),
            yaxis=axis("% of the loop's time", range=_room(traces)),
        ),
    }


def _room(traces: list[Figure]) -> list[float]:
    """At least 5 points: half a point must not look like a disagreement, since 2 are allowed."""
    values = [1.15 * value for trace in traces for value in trace["y"]]
    return [min(0.0, *values), max(5.0, *values)]
