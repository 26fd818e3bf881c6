"""What everybody in the tokenize bench came to: the table, and the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contest import PEERS, Run, cores
from benchmarks.environment import environment
from shards.errors import StokerError

LIMIT, STOKER = "pyarrow + gigatoken", "Stoker"
_HEAD = (
    f"{'':24} {'text MB':>8} {'start s':>8} {'MB/s':>8} {'of limit':>9} {'whole MB/s':>11} "
    f"{'CPU-s/GB':>9} {'RSS MiB':>8}  tokens"
)


@dataclass
class Standing:
    """A contender's runs, or why it has none."""

    name: str
    runs: list[Run] = field(default_factory=list)
    failed: str = ""

    def take(self, once: Callable[[], Run]) -> None:
        """Runs it once more; a failure is kept, not raised: the others go on.

        Raises:
            StokerError: the limit or Stoker failed: then there is nothing to compare.
        """
        try:
            self.runs.append(once())
        except StokerError as error:
            if self.name not in PEERS.values():
                raise
            self.failed = str(error)

    def median(self, name: str) -> float:
        """Of a number of `Run`, by its name."""
        return statistics.median(float(getattr(run, name)) for run in self.runs)

    def said_of_tokens(self) -> str:
        """Whether they are what they should be."""
        if all(run.equal for run in self.runs):
            return "equal"
        return f"DIFFERENT: {self.runs[-1].tokens:,}"


@dataclass(frozen=True)
class Standings:
    """All contenders; the first is the limit, the second Stoker, the third Stoker on less text."""

    all: tuple[Standing, ...]

    def by_difference(self) -> float | None:
        """Stoker's MB/s between its two sizes: what the larger took longer for what it has more."""
        large, small = self.all[1], self.all[2]
        more = large.runs[0].text_bytes - small.runs[0].text_bytes
        longer = _whole(large) - _whole(small)
        return more / 1e6 / longer if more > 0 and longer > 0 else None

    def steady(self) -> float | None:
        """Stoker's MB/s while all cores were at work, by its own reports."""
        reports = [run.report for run in self.all[1].runs if run.report]
        rates = [report["steady_text_mb_per_s"] for report in reports]
        known = [float(rate) for rate in rates if rate]
        return statistics.median(known) if known else None

    def work_cpu_s_per_gb(self) -> tuple[float, float] | None:
        """CPU seconds of the work for 10^9 bytes: the limit's and Stoker's units'.

        Their ratio is what another program's turns on a shared machine don't change.
        """
        values = [
            [run.work_cpu_s / run.text_bytes * 1e9 for run in one.runs if run.work_cpu_s]
            for one in self.all[:2]
        ]
        limit, stoker = values
        return (statistics.median(limit), statistics.median(stoker)) if limit and stoker else None

    def best_peer(self) -> Standing | None:
        """The fastest of the peers while working."""
        peers = [one for one in self.all if one.name in PEERS.values() and one.runs]
        return max(peers, key=lambda one: one.median("rate"), default=None)

    def table(self) -> str:
        """Medians of each contender and its share of the limit; then the ratios in words."""
        limit = self.all[0].median("rate")
        lines = [_HEAD, *(_line(one, limit) for one in self.all)]
        lines.append(f"{cores()} cores; medians of {len(self.all[0].runs)} rounds")
        for rate, how in (
            (self.steady(), "by its own report, while all cores were at work"),
            (self.by_difference(), "by the difference of the two sizes"),
        ):
            if rate:
                lines.append(f"steady state: {rate:.1f} MB/s, {rate / limit:.2f} of limit, {how}")
        work = self.work_cpu_s_per_gb()
        if work:
            lines.append(
                f"CPU alone: {work[1]:.1f} CPU-s a GB in Stoker's units, {work[0]:.1f} in the "
                f"limit's: {work[0] / work[1]:.2f} of limit"
            )
        best, stoker = self.best_peer(), self.all[1]
        if best:
            rate, whole = (
                stoker.median(name) / best.median(name) for name in ("rate", "whole_rate")
            )
            lines.append(
                f"{stoker.name} / {best.name}: {rate:.0f}x while working, "
                f"{(self.steady() or 0) / best.median('rate'):.0f}x at steady state, "
                f"{whole:.0f}x with start-up"
            )
        return "\n".join([*lines, *self._slots()])

    def _slots(self) -> list[str]:
        report = self.all[1].runs[-1].report
        if not report:
            return []
        shares = report["slots"]
        return [
            f"Stoker's cores: {shares['on_cpu']:.0%} at work in units, {shares['waiting']:.0%} "
            f"waiting in them, {shares['no_unit']:.0%} Ray's or idle"
        ]

    def content(self) -> dict[str, Any]:
        """For a JSON file: every run, and the figures of the table."""
        return {
            "environment": environment(),
            "steady_mb_per_s": {"report": self.steady(), "difference": self.by_difference()},
            "contenders": [
                {"name": one.name.strip(), "failed": one.failed, "runs": [*map(asdict, one.runs)]}
                for one in self.all
            ],
        }


def _whole(one: Standing) -> float:
    return one.median("startup_s") + one.median("working_s")


def _line(one: Standing, limit: float) -> str:
    if one.failed:
        return f"{one.name:24} {one.failed}"
    if not one.runs:
        return f"{one.name:24} not run"
    rate = one.median("rate")
    return (
        f"{one.name:24} {one.runs[0].text_bytes / 1e6:8.0f} {one.median('startup_s'):8.1f} "
        f"{rate:8.1f} {rate / limit:9.3f} {one.median('whole_rate'):11.1f} "
        f"{one.median('cpu_s_per_gb'):9.1f} {one.median('peak_rss') / 2**20:8.0f}  "
        f"{one.said_of_tokens()}"
    )
