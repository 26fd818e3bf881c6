"""The report as one self-contained page: everything from outside escaped, no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks.starvation.causes import CAUSES, INPUT_CAUSES
from benchmarks.starvation.report import Report, figure_rows, percent, rate

# Points of the gap chart: more would make the page heavy and show no more.
GAP_POINTS = 2000
SHOWN_SHARE = 1e-4


def render(report: Report) -> str:
    """The whole page as text. Its charts follow the reader's light or dark setting."""
    environment = Environment(
        loader=PackageLoader("benchmarks.starvation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["rate"] = rate
    # Below a hundredth of a percent a cause would only ask a question; the JSON has them all.
    most = {c: max(r.figures.shares.get(c, 0.0) for r in report.results) for c in CAUSES}
    return environment.get_template("report.html").render(
        report=report,
        rows=figure_rows(report),
        causes=CAUSES,
        shown=[cause for cause, share in most.items() if share >= SHOWN_SHARE],
        input_causes=INPUT_CAUSES,
        cores=report.environment.get("cores", "?"),
        charts={"time": time_chart(report), "gaps": gap_chart(report)},
        facts={
            "What ran": report.setup,
            "Accelerator": report.device,
            "Data": report.data,
            **({"Tokenize job": report.job} if report.job else {}),
            "Environment": report.environment,
        },
        plotly=Markup(get_plotlyjs()),
    )


def time_chart(report: Report) -> dict[str, Any]:
    """Plotly's figure of where the window went, a bar a contender; colours are CSS variables."""
    titles = [_plain(result.title) for result in reversed(report.results)]
    traces = []
    for cause, meaning in CAUSES.items():
        shares = [100 * r.figures.shares.get(cause, 0.0) for r in reversed(report.results)]
        if max(shares) < 100 * SHOWN_SHARE:
            continue
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": cause,
                "x": shares,
                "y": titles,
                "marker": {"color": f"--{cause}"},
                "hovertemplate": f"%{{y}}<br><b>%{{x:.2f}} %</b> {_plain(meaning)}<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "height": 110 + 62 * len(titles),
        "bargap": 0.38,
        "xaxis": {
            "range": [0, 100],
            "tickvals": [0, 25, 50, 75, 100],
            "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
            "zeroline": False,
            "fixedrange": True,
        },
        "yaxis": {
            "automargin": True,
            "fixedrange": True,
            "showgrid": False,
            "ticklabelstandoff": 8,
        },
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
    }
    return {"data": traces, "layout": layout}


def gap_chart(report: Report) -> dict[str, Any]:
    """Plotly's figure of the idle time before every measured step."""
    traces = []
    for result in report.results:
        points = thin(result.figures.starts_s, result.figures.gaps_ms)
        colour = f"--contender-{result.name}"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _plain(result.title),
                "x": [x for x, _ in points],
                "y": [y for _, y in points],
                "line": {"width": 1.2, "color": colour},
                "marker": {"size": 4, "color": colour},
                "hovertemplate": "at %{x:.2f} s: %{y:.2f} ms<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "height": 300,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "seconds into the window", "font": {"size": 13}},
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {
            "title": {"text": "ms idle before it", "font": {"size": 13}},
            "fixedrange": True,
            "rangemode": "tozero",
            "automargin": True,
        },
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    return {"data": traces, "layout": layout}


def thin(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `GAP_POINTS` points; of each stretch the highest, so that none is hidden."""
    points = list(zip(xs, ys, strict=True))
    every = max(1, len(points) // GAP_POINTS)
    return [
        max(points[at : at + every], key=lambda point: point[1])
        for at in range(0, len(points), every)
    ]


def _plain(text: str) -> str:
    """Plotly reads a subset of HTML in its labels: this keeps text text."""
    return html.escape(text, quote=False)
