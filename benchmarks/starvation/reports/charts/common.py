"""What all pictures share: text that stays text, axes, the line that says what was emulated."""

from __future__ import annotations

import html
from typing import Any

from benchmarks.starvation.reports.report import Report

Figure = dict[str, Any]

# Longer names would push a chart off a phone's screen.
LABEL_LENGTH = 22
SERIES = 8
TICKS: Figure = {
    "tickvals": [0, 25, 50, 75, 100],
    "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
    "ticklabeloverflow": "allow",
}


def plain(text: str) -> str:
    """Plotly reads a subset of HTML in its labels: this keeps text text."""
    return html.escape(text, quote=False)


def label(text: str) -> str:
    """A name for an axis or a legend: plain, and short."""
    return plain(text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…")


def series(number: int) -> str:
    """The colour of contender `number`; they repeat after `SERIES`."""
    return f"--series-{number % SERIES}"


def points(share: float) -> float:
    """A share of 1 as per cent, without noise in the last digits."""
    return round(100 * share, 6)


def layout(report: Report, height: int, **more: Any) -> Figure:
    """A layout; the page writes its legend below it.

    Where the accelerator is emulated its title says so, also in a copied picture.
    """
    said = f"{report.accelerator}, {report.calibration}" if report.emulated else report.accelerator
    return {
        "height": height,
        "title": {
            "text": plain(said),
            "font": {"size": 11, "color": "--soft"},
            **{"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 6, "t": 4}},
            **{"y": 1, "yref": "container", "yanchor": "top"},
        },
        "showlegend": False,
        **more,
    }


def axis(title: str = "", **more: Any) -> Figure:
    """An axis that can't be dragged about."""
    named = {"title": {"text": title, "font": {"size": 13}}} if title else {}
    return {"fixedrange": True, "zeroline": False, "automargin": True, **named, **more}


def names_axis(names: list[str]) -> Figure:
    """A y axis of rows 0, 1, ... with these names: equal names stay rows of their own."""
    return axis(
        tickvals=list(range(len(names))),
        ticktext=[label(name) for name in names],
        showgrid=False,
        ticklabelstandoff=8,
        range=[-0.6, len(names) - 0.4],
    )
