"""What everybody in the load benchmark came to: tables, the aims in words, the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.loading.entries import CEILING, GETS, STOKER, STREAMED

# Aims of DESIGN: shares of the limit, and times the peers.
LOCAL_AIM, LITDATA_AIM, MOSAICML_AIM, S3_AIM = 0.5, 3.0, 50.0, 0.9
# A first batch may take as many requests one after the other, and so much besides.
FIRST_REQUESTS, FIRST_S = 4, 0.1
_HEAD = (
    f"{'':30} {'Mtok/s':>8} {'worst - best':>17} {'of limit':>8} {'first s':>8} {'resume s':>9} "
    f"{'p99 ms':>8} {'max ms':>8} {'CPU-s/Gtok':>10} {'RSS MiB':>8} {'thr':>4} {'proc':>4}  batch"
)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One stretch of batches.

    Attributes:
        tokens, seconds: how many, in how long.
        gap_p50_s, gap_p99_s, gap_max_s: from one batch to the next, over all of them.
        cpu_s: of all processes; rss, threads, processes: the most that was seen at once.
    """

    tokens: int
    seconds: float
    gap_p50_s: float
    gap_p99_s: float
    gap_max_s: float
    cpu_s: float
    rss: int
    threads: int
    processes: int

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def cpu_s_per_mtok(self) -> float:
        return self.cpu_s / (self.tokens / 1e6) if self.tokens else 0.0


@dataclass
class Standing:
    """An entry's rounds, or why it has none.

    Attributes:
        first_s, resume_s: until the first batch, at the beginning of an epoch and at 90 % of it.
        gives: what a batch holds. told: what an epoch held, if it was looked at.
    """

    name: str
    rounds: list[Round] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    resume_s: list[float] = field(default_factory=list)
    gives: str = ""
    told: str = ""
    version: str = ""
    failed: str = ""

    def median(self, name: str) -> float:
        """Of a number of `Round`, by its name; 0 without rounds."""
        return statistics.median([float(getattr(one, name)) for one in self.rounds] or [0.0])


@dataclass(frozen=True)
class Standings:
    """All entries on one kind of store; the first is the limit.

    Attributes:
        latency_ms: that the proxy adds to each request; None: local files.
    """

    all: tuple[Standing, ...]
    latency_ms: float | None = None

    @property
    def title(self) -> str:
        rounds = f"medians of {max(len(one.rounds) for one in self.all)} rounds"
        if self.latency_ms is None:
            return f"local files; {rounds}"
        return f"S3, {self.latency_ms:g} ms added to each request; {rounds}"

    def named(self, name: str) -> Standing | None:
        """The one of this name, if it has rounds."""
        return next((one for one in self.all if one.name == name and one.rounds), None)

    def table(self) -> str:
        """Medians of each entry and its share of the limit."""
        limit = self.all[0].median("rate")
        return "\n".join([self.title, _HEAD, *(_line(one, limit) for one in self.all)])

    def summary(self) -> list[str]:
        """The aims, a line each: what was reached, and whether that is enough."""
        return _local_aims(self) if self.latency_ms is None else _s3_aims(self)

    def content(self) -> dict[str, Any]:
        """For a JSON file: every round, and the summary."""
        return {
            "store": self.title,
            "latency_ms": self.latency_ms,
            "summary": self.summary(),
            "entries": [asdict(one) for one in self.all],
        }


def _line(one: Standing, limit: float) -> str:
    if not one.rounds:
        return f"{one.name:30} {one.failed or 'not run'}"
    rates = sorted(round.rate / 1e6 for round in one.rounds)
    rate = one.median("rate")
    note = one.gives + ("" if one.told in ("", "equal") else f"; {one.told}")
    spread = f"{rates[0]:.1f} - {rates[-1]:.1f}"
    return (
        f"{one.name:30} {rate / 1e6:8.1f} {spread:>17} {_ratio(rate, limit):8.3f} "
        f"{_seconds(one.first_s):>8} {_seconds(one.resume_s):>9} "
        f"{one.median('gap_p99_s') * 1e3:8.2f} "
        f"{max(round.gap_max_s for round in one.rounds) * 1e3:8.1f} "
        f"{one.median('cpu_s_per_mtok') * 1e3:10.2f} "
        f"{max(round.rss for round in one.rounds) / 2**20:8.0f} "
        f"{max(round.threads for round in one.rounds):4} "
        f"{max(round.processes for round in one.rounds):4}  {note}"
        + (f"; later: {one.failed}" if one.failed else "")
    )


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else "-"


def _ratio(rate: float, limit: float) -> float:
    return rate / limit if limit else 0.0


def _verdict(what: str, reached: float, aim: float, sign: str = "") -> str:
    word = "met" if reached >= aim else "NOT met"
    return f"{what}: {reached:.2f}{sign} (aim {aim:g}{sign}: {word})"


def _local_aims(here: Standings) -> list[str]:
    lines = []
    limit = here.all[0].median("rate")
    for name in (STOKER, STREAMED):
        one = here.named(name)
        if one and limit:
            share = _ratio(one.median("rate"), limit)
            lines.append(_verdict(f"{name} / {CEILING}", share, LOCAL_AIM))
    stoker = here.named(STOKER)
    for peer, aim in (("litData", LITDATA_AIM), ("MosaicML", MOSAICML_AIM)):
        best = _best(here, f"{peer} ")
        if stoker and best:
            times = _ratio(stoker.median("rate"), best.median("rate"))
            lines.append(_verdict(f"{STOKER} / {best.name}", times, aim, "x"))
    return lines


def _s3_aims(here: Standings) -> list[str]:
    lines = []
    limit = here.all[0].median("rate")
    allowed = FIRST_REQUESTS * (here.latency_ms or 0.0) / 1e3 + FIRST_S
    for name in (STOKER, STREAMED):
        one = here.named(name)
        if one is None or not limit:
            continue
        share = _ratio(one.median("rate"), limit)
        lines.append(_verdict(f"{name} / {GETS}", share, S3_AIM))
        first, resume = (statistics.median(some or [0.0]) for some in (one.first_s, one.resume_s))
        word = "met" if first <= allowed else "NOT met"
        lines.append(f"{name}, first batch: {first:.3f} s (aim {allowed:.2f} s: {word})")
        if one.resume_s:
            lines.append(f"{name}, resumed at 90 %: {resume / first:.2f} of the first batch's time")
    return lines


def _best(here: Standings, start: str) -> Standing | None:
    found = [one for one in here.all if one.name.startswith(start) and one.rounds]
    return max(found, key=lambda one: one.median("rate"), default=None)
