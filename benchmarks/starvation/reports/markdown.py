"""The report for a pull request: `report.md`, with everything from outside escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from benchmarks.starvation.deck import words as deck_words
from benchmarks.starvation.deck.result import Deck
from benchmarks.starvation.explain.causes import called
from benchmarks.starvation.explain.result import Result, knee
from benchmarks.starvation.reports.compare import Change, Comparison
from benchmarks.starvation.reports.page import facts
from benchmarks.starvation.reports.report import (
    Report,
    figure_name,
    interval,
    number,
    percent,
    rate,
)
from benchmarks.starvation.reports.sentences import TRY_MORE, at_edge

_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
# What makes a heading or a list, where a line begins with it.
_START = re.compile(r"^(\d*)([-+#=.)])")


def markdown(report: Report, comparison: Comparison | None = None) -> str:
    """Verdict, table, advice, checks; then what is compared, then the conditions folded away."""
    parts = [
        f"### Starvation: {text(report.finding)}",
        f"{text(report.accelerator)}"
        + (f", {text(report.calibration)}. No GPU was used." if report.emulated else "."),
        *warnings(report),
        table(
            ("", "starved", "mainly", "idle", "goodput", "trained", "headroom"),
            [_row(result) for result in report.results],
        ),
        "\n".join(
            f"- {text(title)} left out: {text(why)}" for title, why in report.left_out.items()
        ),
        *(deck_table(report.deck) if report.deck else []),
        "\n".join(
            f"- **{text(result.title)}: {text(advice.called)}** ({percent(advice.share)})."
            f" {text(advice.action)} _{text(advice.evidence)}_"
            for result in report.results
            for advice in result.advice
        ),
        *more_workers(report),
        *checks(report),
        *(compared(comparison) if comparison else []),
        "<details><summary>Conditions</summary>",
        table(
            ("", ""),
            [
                (f"{heading}: {name}", value)
                for heading, these in facts(report).items()
                for name, value in these.items()
            ],
        ),
        "</details>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def warnings(report: Report) -> list[str]:
    """What makes the figures doubtful."""
    who = ", ".join(result.title for result in report.short)
    return [
        *(["**Invalid**: the emulator itself was disturbed."] if not report.valid else []),
        *(["**Unstable**: seeds differ by more than 5 %."] if report.unstable else []),
        *([f"**Few steps**: {text(f'{report.few_steps}: {who}')}."] if report.short else []),
    ]


def checks(report: Report) -> list[str]:
    """Whether ladder and controls confirm the attribution."""
    said = []
    if report.ladder is not None:
        agree = "agree" if report.ladder.agrees else "**do not agree: trust neither**"
        points = 100 * report.ladder.difference
        said.append(f"Ladder and attribution {agree}: {points:.1f} points apart, 2 are allowed.")
        said += [
            f"{text(f'{n} was left out: {why}')}." for n, why in report.ladder.left_out.items()
        ]
    if report.controls:
        failed = [control.called for control in report.controls if not control.passed]
        count = len(report.controls)
        said.append(
            f"Controls: {count - len(failed)} of {count} passed"
            + (f"; **failed: {text(', '.join(failed))}**." if failed else ".")
        )
    return said


def deck_table(deck: Deck) -> list[str]:
    """The deck's loop, padded and packed: counted, timed on each card, and what is the same."""
    head = deck_words.title_row(deck)
    parts = [
        "#### The deck's fine-tuning loop",
        table(
            ("an epoch", *head),
            [(what, *values) for what, values in deck_words.epoch_rows(deck)],
        ),
    ]
    for card in deck.cards:
        rows = [(what, *values) for what, values in deck_words.card_rows(deck, card)]
        rows.append(("packed over padded", *[""] * (len(head) - 1), deck_words.ratio(card)))
        parts.append(table((card.accelerator, *head), rows))
    said = [*deck_words.same_tokens(deck), *deck_words.notes(deck)]
    return [*parts, "\n".join(f"- {text(sentence)}" for sentence in said)]


def more_workers(report: Report) -> list[str]:
    """What more workers brought, contender by contender; the knee is bold."""
    said = []
    for result in report.results:
        bend = knee(result.workers)
        if bend is None:
            continue
        points = ", ".join(
            f"{f'**{point.workers}**' if point == bend else point.workers}:"
            f" {number(point.headroom, 2)}x"
            for point in result.workers
        )
        said.append(
            f"Workers of {text(result.title)}, times the demand: {points} (bold: the fewest that"
            " reach 90 % of the best rate)."
            + (f" {TRY_MORE.capitalize()}." if at_edge(result.workers) else "")
        )
    return said


def compared(comparison: Comparison) -> list[str]:
    """What became of each figure since the older report: first why to doubt it, last the noise."""
    noise = [each for each in comparison.changes if each.judgement == "noise"]
    only = [
        f"{text(', '.join(names))}: only in the {which} report."
        for which, names in (("older", comparison.gone), ("newer", comparison.added))
        if names
    ]
    return [
        f"#### {text(comparison.verdict)}",
        *(f"**Careful**: {text(doubt)}." for doubt in comparison.doubts),
        *(["**Careful**: these were not the same."] if comparison.conditions else []),
        table(
            ("", "then", "now"),
            [(name, then, now) for name, (then, now) in comparison.conditions.items()],
        ),
        _changes([each for each in comparison.changes if each.judgement != "noise"]),
        *only,
        *(["<details><summary>Noise</summary>", _changes(noise), "</details>"] if noise else []),
    ]


def _changes(changes: Iterable[Change]) -> str:
    return table(
        ("", "figure", "then", "now", ""),
        [
            (
                change.contender,
                figure_name(change.figure),
                interval(change.figure, change.old),
                interval(change.figure, change.new),
                change.judgement,
            )
            for change in changes
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells; nothing for no rows."""
    lines = ["| " + " | ".join(map(text, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(
        ["| " + " | ".join(map(text, head)) + " |", "|" + " --- |" * len(head), *lines]
    )


def text(words: str) -> str:
    """One line in which nothing is markup, a link, a mention or a control character."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(words.split()))
    line = html.escape(line, quote=False)
    line = _START.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", line))
    return line.replace("://", "&#58;//").replace("@", "@<!-- -->").replace("www.", "www&#46;")


def _row(result: Result) -> Sequence[str]:
    figures = result.figures
    estimate = result.estimates.get("stall_rate")
    return (
        result.title,
        interval("stall_rate", estimate) if estimate else percent(figures.stall_rate),
        called(result.main_cause) if result.main_cause else "-",
        percent(figures.gap_rate),
        percent(figures.goodput),
        rate(figures.tokens_per_s),
        "-" if result.headroom is None else f"{result.headroom:,.1f}x",
    )
