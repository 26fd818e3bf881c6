"""The first steps of one contender as three lanes: host, copy, device."""

from __future__ import annotations

from benchmarks.starvation.explain.causes import CAUSES
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.reports.charts.common import Figure, axis, layout, plain
from benchmarks.starvation.reports.report import Report

# From the bottom up.
LANES = ("device", "copy", "host")
HOST_KINDS = {"next": "waiting in next()", "step": "handing a step over"}


def timeline(report: Report, result: Result) -> Figure | None:
    """Bars on the lanes, coloured by cause, which can be zoomed; None without a timeline."""
    if result.timeline is None:
        return None
    traces = []
    for kind in (*CAUSES, *HOST_KINDS):
        spans = [span for span in result.timeline.spans if span.kind == kind and span.lane in LANES]
        if not spans:
            continue
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": HOST_KINDS.get(kind, kind),
                "y": [LANES.index(span.lane) for span in spans],
                "base": [round(span.start_ms, 6) for span in spans],
                "x": [round(span.stop_ms - span.start_ms, 6) for span in spans],
                "width": 0.62,
                "marker": {"color": f"--{kind}", "line": {"width": 0}},
                "customdata": [span.step for span in spans],
                "hovertemplate": f"step %{{customdata}}: <b>%{{x:.4~g}} ms</b> {_meaning(kind)}"
                "<extra></extra>",
            }
        )
    end = max((span.stop_ms for span in result.timeline.spans), default=0.0)
    lanes: Figure = {"tickvals": [0, 1, 2], "ticktext": list(LANES), "range": [-0.5, 2.5]}
    return {
        "data": traces,
        "layout": layout(
            report,
            250,
            barmode="overlay",
            dragmode="zoom",
            hovermode="closest",
            xaxis=axis(
                f"ms ({result.drawn})",
                fixedrange=False,
                range=[0, end],
                minallowed=0,
                maxallowed=end,
            ),
            yaxis=axis(showgrid=False, ticklabelstandoff=8, **lanes),
        ),
    }


def _meaning(kind: str) -> str:
    return plain(HOST_KINDS.get(kind) or CAUSES[kind])
