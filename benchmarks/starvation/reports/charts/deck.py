"""The deck's job: what its slots hold, and how long it takes, padded and packed."""

from __future__ import annotations

from typing import Any

from benchmarks.starvation.deck.result import Deck
from benchmarks.starvation.deck.words import name
from benchmarks.starvation.reports.charts.common import Figure, axis, layout, names_axis, plain
from benchmarks.starvation.reports.report import Report


def slots(report: Report) -> Figure | None:
    """A bar for each way: the slots of an epoch, by what they hold."""
    deck = report.deck
    if deck is None:
        return None
    epochs = deck.epochs[::-1]
    parts = {
        "tokens the loss is computed on": ("--compute", [e.targets for e in epochs]),
        "first tokens of rows": ("--step", [e.tokens - e.targets for e in epochs]),
        "padding": ("--padding", [e.slots - e.tokens for e in epochs]),
    }
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": what,
            "x": counts,
            "y": list(range(len(epochs))),
            "marker": {"color": colour},
            "hovertemplate": f"<b>%{{x:,}}</b> {what}<extra></extra>",
        }
        for what, (colour, counts) in parts.items()
    ]
    return {
        "data": traces,
        "layout": layout(
            report,
            112 + 54 * len(epochs),
            barmode="stack",
            bargap=0.38,
            xaxis=axis("slots an epoch", rangemode="tozero", nticks=5),
            yaxis=names_axis([epoch.title for epoch in epochs]),
            showlegend=False,
        ),
    }


def seconds(report: Report) -> Figure | None:
    """An epoch's minutes on each card, a bar for each way."""
    deck = report.deck
    if deck is None or not deck.cards:
        return None
    cards = deck.cards[::-1]
    height = 96 + 44 * len(cards) * len(deck.epochs)
    made = layout(
        report,
        height,
        barmode="group",
        bargap=0.3,
        xaxis=axis("minutes an epoch", rangemode="tozero"),
        yaxis=names_axis([name(card) for card in cards]),
        showlegend=False,
    )
    # The report is about one of the cards, this picture about all of them.
    said = [*map(name, deck.cards), *([report.calibration] if report.emulated else [])]
    made["title"]["text"] = plain(", ".join(said))
    return {
        "data": [_way(deck, way) for way in reversed(range(len(deck.epochs)))],
        "layout": made,
    }


def _way(deck: Deck, way: int) -> dict[str, Any]:
    cards = deck.cards[::-1]
    minutes = [card.times[way].epoch_s / 60 for card in cards]
    return {
        "type": "bar",
        "orientation": "h",
        "name": plain(deck.epochs[way].title),
        "x": [round(value, 4) for value in minutes],
        "y": list(range(len(cards))),
        "text": [f"{value:.1f} min" for value in minutes],
        "textposition": "auto",
        "marker": {"color": "--padding" if way == 0 else "--compute"},
        "hovertemplate": "<b>%{x:.2f} min</b> %{fullData.name}<extra></extra>",
    }
