"""The report as one self-contained page: everything from outside escaped, no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks.starvation.deck import words as deck_words
from benchmarks.starvation.explain.causes import CAUSES, INPUT_CAUSES, called
from benchmarks.starvation.explain.result import Advice, Result, knee
from benchmarks.starvation.reports.charts import deck, feeding, gaps, ladder, shares
from benchmarks.starvation.reports.charts.common import SERIES
from benchmarks.starvation.reports.charts.timeline import timeline
from benchmarks.starvation.reports.compare import Comparison
from benchmarks.starvation.reports.report import (
    Report,
    figure_name,
    figure_rows,
    interval,
    number,
    percent,
    rate,
)
from benchmarks.starvation.reports.sentences import TRY_MORE, at_edge


def render(report: Report, comparison: Comparison | None = None) -> str:
    """The whole page as text. Its charts follow the reader's light or dark setting."""
    environment = Environment(
        loader=PackageLoader("benchmarks.starvation.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "rate": rate, "called": called, "number": number}
    environment.filters["figure"] = figure_name
    return environment.get_template("report.html").render(
        report=report,
        comparison=comparison,
        interval=interval,
        series=SERIES,
        lines=[(drawn(r), f"series-{n % SERIES}") for n, r in enumerate(report.results)],
        rows=figure_rows(report),
        estimates=estimate_rows(report),
        meanings=CAUSES,
        shown=shares.shown_causes(report),
        input_causes=INPUT_CAUSES,
        cores=report.environment.get("cores", "?"),
        chosen=most_starved(report),
        advised=advised(report),
        knees=[(r, knee(r.workers), at_edge(r.workers)) for r in report.results if r.workers],
        try_more=TRY_MORE,
        charts=charts(report),
        facts=facts(report),
        deck=report.deck,
        deck_words=deck_words,
        zip=zip,
        plotly=Markup(get_plotlyjs()),
    )


def charts(report: Report) -> dict[str, list[dict[str, Any] | None]]:
    """By the id of its place: one figure, or one for each contender; None where there is none."""

    def each(make: Callable[[Report, Result], dict[str, Any] | None]) -> list[Any]:
        return [make(report, result) for result in report.results]

    return {
        "waterfall": each(shares.waterfall),
        "timeline": each(timeline),
        "workers": each(feeding.workers),
        "shares": [shares.side_by_side(report)],
        "distribution": [gaps.distribution(report)],
        "gaps": [gaps.over_time(report)],
        "headroom": [feeding.headroom(report)],
        "ladder": [ladder.ladder(report)],
        "deck-slots": [deck.slots(report)],
        "deck-seconds": [deck.seconds(report)],
    }


def drawn(result: Result) -> str:
    """A contender's name in the legend of a picture that is of one of its runs."""
    return f"{result.title}: {result.drawn}" if result.drawn else result.title


def advised(report: Report) -> list[tuple[Result, Advice]]:
    """All advice with whom it is for, the largest share first."""
    found = [(result, advice) for result in report.results for advice in result.advice]
    return sorted(found, key=lambda each: -each[1].share)


def most_starved(report: Report) -> int:
    """Number of the contender that a reader wants explained first."""
    rates = [result.figures.stall_rate for result in report.results]
    return max(range(len(rates)), key=rates.__getitem__)


def estimate_rows(report: Report) -> list[tuple[str, list[str]]]:
    """(figure, `median [low, high]` per contender), for the figures that any of them has."""
    names = dict.fromkeys(name for result in report.results for name in result.estimates)
    return [(name, [interval(name, r.estimates.get(name)) for r in report.results])
            for name in names]  # fmt: skip


def facts(report: Report) -> dict[str, dict[str, str]]:
    """What the figures hold for, as words under headings."""
    found = {
        "What ran": dict(report.setup),
        "Accelerator": dict(report.device),
        "Data": dict(report.data),
        "Tokenize job": dict(report.job),
        "Environment": dict(report.environment),
    }
    if report.emulated:
        found["Accelerator"]["emulator"] = report.calibration
    if report.price is not None:
        price = report.price
        found["Price"] = {
            "node": f"{price.instance}, {price.cards} cards",
            "an hour": f"${price.usd_per_hour:.2f}",
            "source": f"{price.source}, {price.date}",
        }
    return {heading: these for heading, these in found.items() if these}
