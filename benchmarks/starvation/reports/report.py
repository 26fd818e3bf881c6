"""What a starvation run found, as one versioned JSON document and as a table for the console.

`report.schema.json` describes the document; it is made from the classes here and in `result.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.starvation.checks.calibration import words
from benchmarks.starvation.deck.result import Deck
from benchmarks.starvation.deck.words import headline
from benchmarks.starvation.explain.causes import (
    CALLED,
    CAUSES,
    COMMUNICATION,
    INPUT_CAUSES,
    STRAGGLER,
    called,
)
from benchmarks.starvation.explain.figures import Figures
from benchmarks.starvation.explain.result import Control, Ladder, Result
from benchmarks.starvation.explain.statistics import Estimate
from benchmarks.starvation.reports.prices import Price

REPORT_VERSION = 2
SCHEMA = Path(__file__).with_name("report.schema.json")

# Of fewer measured steps than these a report says so, whatever was asked; of fewer than those an
# interval says nothing.
FEW_STEPS, NO_INTERVAL = 20, 10
# More of the time than this in waits for other ranks belongs into the first line.
WAITING = 0.05
# What people call the figures of `Result.estimates`.
CALLED_FIGURES = {
    "stall_rate": "starved",
    "gap_rate": "idle",
    "au": "AU",
    "tokens_per_s": "trained",
    "step_ms": "a step",
    "gap_p99_ms": "gap p99",
}
# Names of `Result.estimates` that are shares of 1; the others have a unit of their own.
SHARES = ("stall_rate", "gap_rate", "au", "goodput")


@dataclass(frozen=True)
class Report:
    """Everything that `report.json` and the page say. The mappings are facts as words, in order.

    `cards`: accelerators that share the batches. `left_out`: contenders that did not run, and why.
    `job`: how the data was made, where this run made it. `price`: of the node that the cards are
    part of. `calibration`: how far the emulator was compared with a real card, in a sentence.
    `deck`: what `python -m benchmarks.starvation.deck` counts besides. `asked_steps`: to be
    measured behind the warm-up in each run; None where nobody asked for a number.
    """

    accelerator: str
    emulated: bool
    results: tuple[Result, ...]
    left_out: Mapping[str, str]
    device: Mapping[str, str]
    data: Mapping[str, str]
    setup: Mapping[str, str]
    environment: Mapping[str, str]
    cards: int = 1
    job: Mapping[str, str] = field(default_factory=dict)
    price: Price | None = None
    ladder: Ladder | None = None
    controls: tuple[Control, ...] = ()
    calibration: str = field(default_factory=words)
    deck: Deck | None = None
    asked_steps: int | None = None
    version: int = REPORT_VERSION

    @property
    def valid(self) -> bool:
        """False when the emulator disturbed any of the runs beyond its limit."""
        return all(result.figures.valid for result in self.results)

    @property
    def unstable(self) -> bool:
        """True when the seeds of any contender differ too much."""
        return any(result.unstable for result in self.results)

    @property
    def short(self) -> tuple[Result, ...]:
        """Contenders of which a run has fewer steps than were asked for, or very few."""
        enough = max(FEW_STEPS, self.asked_steps or 0)
        return tuple(result for result in self.results if result.figures.steps < enough)

    @property
    def few_steps(self) -> str:
        """`only 20 of 200 steps were measured (--seconds)`, of the shortest run; "" of enough."""
        if not self.short:
            return ""
        steps, asked = min(result.figures.steps for result in self.short), self.asked_steps or 0
        many = f"{steps} of {asked}" if steps < asked else f"{steps}"
        words = f"only {many} {'step was' if many == '1' else 'steps were'} measured"
        words += " (--seconds)" if steps < asked else ""
        return words + (", too few for intervals" if steps < NO_INTERVAL else "")

    @property
    def findings(self) -> tuple[str, ...]:
        """Who starved, how much, for what, and what that costs; then the doubts.

        Of more than two contenders the first and the one that starved most; of the others, how far.
        """
        found = [r for r in self.results if r.unthrottled_tokens_per_s is not None]
        first, *others = found or self.results
        others.sort(key=lambda result: -result.figures.stall_rate)
        words = [f"{first.title} starved {self._starved(first)}"]
        words += [f"{result.title} {self._starved(result)}" for result in others[:1]]
        if between := [result.figures.stall_rate for result in others[1:]]:
            who = f"{len(between)} others" if len(between) > 1 else others[1].title
            rates = dict.fromkeys((percent(min(between)), percent(max(between))))
            words.append(f"{who} {' to '.join(rates)}")
        doubts = [
            *(["invalid: the emulator was disturbed"] if not self.valid else []),
            *(["unstable: the seeds differ by more than 5 %"] if self.unstable else []),
            *([self.few_steps] if self.few_steps else []),
        ]
        if self.deck is not None:
            words.insert(0, headline(self.deck))
        if doubts:
            words[-1] += f" ({'; '.join(doubts)})"
        return tuple(words)

    @property
    def finding(self) -> str:
        """All findings in a line."""
        return "; ".join(self.findings)

    @property
    def verdict(self) -> str:
        """The first line of everything this report is shown in."""
        return f"{self.accelerator}: {self.finding}"

    def starved_usd_per_hour(self, result: Result) -> float | None:
        """stall_rate x the node's price, or None without a price."""
        return None if self.price is None else result.figures.stall_rate * self.price.usd_per_hour

    def document(self) -> dict[str, Any]:
        """What `report.schema.json` describes; NaN is null."""
        document = asdict(self) | {
            "verdict": self.verdict,
            "valid": self.valid,
            "unstable": self.unstable,
            "meanings": CAUSES,
            "called": {cause: name for cause, (_, name) in CALLED.items()},
        }
        for row, result in zip(document["results"], self.results, strict=True):
            row["headroom"] = result.headroom
            row["seeds"], row["ranks"] = result.seeds, result.ranks
            row["unstable"] = result.unstable
            row["main_cause"], row["most_idle"] = result.main_cause, result.most_idle
            row["comm_exposed"] = result.comm_exposed
            row["starved_usd_per_hour"] = self.starved_usd_per_hour(result)
            row["figures"]["valid"] = result.figures.valid
        if self.ladder is not None:
            document["ladder"]["agrees"] = self.ladder.agrees
        finite: dict[str, Any] = _finite(document)
        return finite

    def to_json(self) -> str:
        """The document as text."""
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def write(self, folder: Path | str, older: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
        """Write report.json, report.html and report.md into `folder`; their paths.

        `older`: the document of another report; page and report.md say what changed since.
        """
        from benchmarks.starvation.reports.compare import compare
        from benchmarks.starvation.reports.markdown import markdown
        from benchmarks.starvation.reports.page import render

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        comparison = None if older is None else compare(older, self)
        written = {
            "report.json": self.to_json(),
            "report.html": render(self, comparison),
            "report.md": markdown(self, comparison),
        }
        for name, content in written.items():
            # File names may hold bytes that are no text.
            (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")
        return tuple(folder / name for name in written)

    def _starved(self, result: Result) -> str:
        """`23.4 % [22.8, 24.1], mainly I/O latency, costs $12.9/h on p5.48xlarge`."""
        text = percent(result.figures.stall_rate)
        estimate = result.estimates.get("stall_rate")
        if estimate is not None:
            value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
            text = f"{value:.1f} % [{low:.1f}, {high:.1f}]"
        waits = result.share(COMMUNICATION, STRAGGLER)
        if waits >= WAITING and waits > result.share(*INPUT_CAUSES):
            text += f", but {percent(waits)} of the time its ranks wait for each other"
        cause = result.main_cause
        if cause is None:
            return text
        text += f", mainly {called(cause)}"
        cost = self.starved_usd_per_hour(result)
        if cost is None or self.price is None:
            return text
        return f"{text}, costs ${number(cost)}/h on {self.price.instance}"


def percent(rate: float) -> str:
    """0.4123 -> "41 %"; small rates keep two digits: almost nothing must not read as nothing."""
    if math.isnan(rate):
        return "-"
    value = 100 * rate
    if value >= 99.95:
        return "100 %"
    if value >= 10:
        return f"{value:.0f} %"
    if value >= 1:
        return f"{value:.1f} %"
    return f"{value:.2f} %" if value >= 0.005 else "0 %"


def rate(tokens_per_s: float | None) -> str:
    """Tokens per second in a readable unit."""
    if tokens_per_s is None:
        return "-"
    if tokens_per_s >= 1e8:
        return f"{tokens_per_s / 1e6:.0f} Mtok/s"
    if tokens_per_s >= 1e6:
        return f"{tokens_per_s / 1e6:.2f} Mtok/s"
    if tokens_per_s >= 1e4:
        return f"{tokens_per_s / 1e3:.0f} ktok/s"
    return f"{number(tokens_per_s)} tok/s"


def number(value: float, digits: int = 3) -> str:
    """`digits` digits that count, and never an exponent for a large one: 123,963 -> "124,000"."""
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) < 10 ** (digits - 1):
        return f"{rounded:.{digits}g}"
    return f"{rounded:,.0f}"


def interval(name: str, estimate: Estimate | None) -> str:
    """`24.6 % [23.9, 25.3]`, in the unit that the figure's name tells."""
    if estimate is None:
        return "-"
    scale, unit, digits = 1.0, "", 2
    if name in SHARES:
        scale, unit, digits = 100.0, " %", 2
    elif name == "tokens_per_s":
        scale, unit, digits = 1e-3, " ktok/s", 1
        if estimate.value < 1e4:
            scale, unit = 1.0, " tok/s"
    elif name.endswith("_ms"):
        unit = " ms"
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:,.{digits}f}{unit} [{low:,.{digits}f}, {high:,.{digits}f}]"


def figure_name(name: str) -> str:
    """What people call a figure of `Result.estimates`."""
    return CALLED_FIGURES.get(name, name)


def figure_rows(report: Report) -> list[tuple[str, str, list[str]]]:
    """(what, meaning, a value per result): the table of the console and of the page."""
    results = report.results
    fs = [r.figures for r in results]
    return [
        ("starved", "idle, waiting for input", [percent(f.stall_rate) for f in fs]),
        ("idle", "all gaps between steps, starved among them", [percent(f.gap_rate) for f in fs]),
        ("AU", "MLPerf Storage's utilization", [percent(f.au) for f in fs]),
        ("padding efficiency", "tokens / slots", [percent(f.padding_efficiency) for f in fs]),
        ("goodput", "(1 - idle) x padding efficiency", [percent(f.goodput) for f in fs]),
        ("trained", "tokens a second", [rate(f.tokens_per_s) for f in fs]),
        ("demand", "tokens a second, never idle", [rate(f.demand_tokens_per_s) for f in fs]),
        ("unthrottled", "loader alone", [rate(r.unthrottled_tokens_per_s) for r in results]),
        ("headroom", "unthrottled / demand", [_times(r.headroom) for r in results]),
        ("cards it could feed", "headroom x cards", [_cards(r, report.cards) for r in results]),
        ("first batch", "from opening", [f"{f.first_batch_s:.2f} s" for f in fs]),
        (
            "resumed",
            "from a saved state to the first batch",
            [_ms_or_none(r.resume_gap_ms) for r in results],
        ),
        ("epoch's edge", "longest gap there", [_ms_or_none(r.epoch_edge_gap_ms) for r in results]),
        ("gap p50", "idle before a step", [_ms(f.gap_p50_ms) for f in fs]),
        ("gap p95", "", [_ms(f.gap_p95_ms) for f in fs]),
        ("gap p99", "", [_ms(f.gap_p99_ms) for f in fs]),
        ("gap max", "", [_ms(f.gap_max_ms) for f in fs]),
        ("host CPU", "cores in use by loop and loader", [f"{f.cpu_cores:.2f}" for f in fs]),
        ("CPU per Mtok", "host CPU seconds", [f"{_cpu(f):.3f} s" for f in fs]),
        (
            "cores to feed it",
            "a card, AU 99 %: CPU a token, alone, x demand",
            ["-" if r.cores_to_feed is None else number(r.cores_to_feed, 2) for r in results],
        ),
        ("steps", "measured", [str(f.steps) for f in fs]),
        (
            "overshoot",
            "idle the emulator may have caused",
            [percent(f.overshoot_share) for f in fs],
        ),
    ]


CONSOLE_ROWS = (
    "starved",
    "idle",
    "trained",
    "demand",
    "unthrottled",
    "headroom",
    "cards it could feed",
    "first batch",
    "resumed",
    "host CPU",
    "cores to feed it",
)


def console_table(report: Report) -> str:
    """The figures that matter most, one column a contender."""
    rows = [("", [r.title for r in report.results])]
    rows += [(what, values) for what, _, values in figure_rows(report) if what in CONSOLE_ROWS]
    widths = [max(len(values[i]) for _, values in rows) for i in range(len(report.results))]
    first = max(len(what) for what, _ in rows)
    lines = [
        what.ljust(first) + "".join(f"  {v:>{w}}" for v, w in zip(values, widths, strict=True))
        for what, values in rows
    ]
    lines += [f"{title} left out: {why}" for title, why in report.left_out.items()]
    return "\n".join(lines)


def _cpu(f: Figures) -> float:
    return 1e6 * f.cpu_cores / f.tokens_per_s


def _cards(result: Result, cards: int) -> str:
    return "-" if result.headroom is None else number(result.headroom * cards)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}x"


def _ms(value: float) -> str:
    return f"{value:.1f} ms"


def _ms_or_none(value: float | None) -> str:
    return "-" if value is None else _ms(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
