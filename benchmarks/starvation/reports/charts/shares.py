"""Where the window went: every contender as a bar, and one of them as a waterfall."""

from __future__ import annotations

from benchmarks.starvation.explain.causes import (
    BETWEEN_STEPS,
    CAUSES,
    COMPUTE,
    IN_STEP,
    PADDING,
    called,
)
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.reports.charts.common import (
    TICKS,
    Figure,
    axis,
    layout,
    names_axis,
    plain,
    points,
)
from benchmarks.starvation.reports.report import Report

# Below a hundredth of a percent a cause would only ask a question; the JSON has them all.
SHOWN_SHARE = 1e-4
# Bars of a waterfall that are what is left, and their colours.
SUMS = {
    "window": "--total",
    "in steps": "--total",
    COMPUTE: "--compute",
    "useful": "--compute",
}


def shown_causes(report: Report) -> list[str]:
    """Causes that took enough of any contender's window to be seen."""
    return [
        cause
        for cause in CAUSES
        if max(r.figures.shares.get(cause, 0.0) for r in report.results) >= SHOWN_SHARE
    ]


def side_by_side(report: Report) -> Figure:
    """A stacked bar a contender: the causes that are shown, of 100 % of its window."""
    results = report.results[::-1]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": cause,
            "x": [points(r.figures.shares.get(cause, 0.0)) for r in results],
            "y": list(range(len(results))),
            "marker": {"color": f"--{cause}"},
            "hovertemplate": f"<b>%{{x:.2f}} %</b> {plain(CAUSES[cause])}<extra></extra>",
        }
        for cause in shown_causes(report)
    ]
    return {
        "data": traces,
        "layout": layout(
            report,
            96 + 54 * len(results),
            barmode="stack",
            bargap=0.38,
            xaxis=axis(range=[0, 100], **TICKS),
            yaxis=names_axis([r.title for r in results]),
        ),
    }


def waterfall_rows(result: Result) -> list[tuple[str, float, float]]:
    """(name, where its bar begins, how long it is) in shares of the window, from the top down.

    `SUMS` stand on the ground; a cause, or padding, hangs from what was left before it.
    """
    shares = result.figures.shares
    rows, left = [("window", 0.0, 1.0)], 1.0

    def take(*causes: str) -> None:
        nonlocal left
        for cause in causes:
            share = shares.get(cause, 0.0)
            left -= share
            if share >= SHOWN_SHARE:
                rows.append((cause, left, share))

    take(*BETWEEN_STEPS)
    steps = ("in steps", 0.0, left)
    between = len(rows)
    take(*IN_STEP)
    if len(rows) > between:
        rows.insert(between, steps)
    rows.append((COMPUTE, 0.0, left))
    padding = left * (1 - result.figures.padding_efficiency)
    if padding >= SHOWN_SHARE:
        rows += [(PADDING, left - padding, padding), ("useful", 0.0, left - padding)]
    return rows


def waterfall(report: Report, result: Result) -> Figure:
    """From the whole window down to useful computing: what each cause takes of what was left.

    Padding comes last: no cause of idleness, but slots that were computed for nothing.
    """
    rows = waterfall_rows(result)[::-1]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(rows))),
        "base": [points(base) for _, base, _ in rows],
        "x": [points(size) for *_, size in rows],
        "marker": {"color": [SUMS.get(name, f"--{name}") for name, *_ in rows]},
        "text": [f"{100 * size:.1f} %" for *_, size in rows],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [_meaning(name) for name, *_ in rows],
        "hovertemplate": "<b>%{text}</b> %{customdata}<extra></extra>",
        "showlegend": False,
    }
    return {
        "data": [trace],
        "layout": layout(
            report,
            96 + 30 * len(rows),
            bargap=0.28,
            xaxis=axis(range=[0, 128], **TICKS),
            yaxis=names_axis([name for name, *_ in rows]),
        ),
    }


def _meaning(name: str) -> str:
    own = {
        "window": "the measured time",
        "in steps": "the device was at work, or waited inside a step",
        "useful": "computing slots that hold a token",
        PADDING: "computing slots that hold no token",
    }
    return plain(own.get(name) or f"{called(name)}: {CAUSES[name]}")
