"""A report beside an older one: better, worse, or no more than noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jsonschema

from benchmarks.starvation.explain.statistics import Estimate
from benchmarks.starvation.reports.report import SCHEMA, Report, interval
from shards.errors import StokerError

# Whether more of a figure is better; a figure that isn't here is told without a judgement.
MORE_IS_BETTER = {
    "stall_rate": False,
    "gap_rate": False,
    "au": True,
    "goodput": True,
    "tokens_per_s": True,
    "step_ms": False,
    "gap_p99_ms": False,
}
# Facts that have to be the same for a comparison to be about the loader.
CONDITIONS = ("accelerator", "device", "data", "setup", "environment")
# Those that differ from run to run and say nothing.
NO_CONDITION = {("environment", "date"), ("environment", "git"), ("environment", "stoker")}

Judgement = Literal["better", "worse", "noise", "changed"]


@dataclass(frozen=True)
class Change:
    """One figure of one contender, then and now; "changed": differs, but no side is the better."""

    contender: str
    figure: str
    old: Estimate
    new: Estimate
    judgement: Judgement


@dataclass(frozen=True)
class Comparison:
    """`conditions`: what was not the same, name -> (then, now). `doubts`: why not to trust it.

    `gone`, `added`: contenders that only one of the two reports has.
    """

    changes: tuple[Change, ...]
    conditions: Mapping[str, tuple[str, str]]
    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def counted(self) -> str:
        """How many figures went which way: `2 better, 1 worse, 4 noise`."""
        counts = {
            name: sum(change.judgement == name for change in self.changes)
            for name in ("better", "worse", "noise", "changed")
        }
        said = [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join(said) or "nothing in common"

    @property
    def verdict(self) -> str:
        """The same as a line of its own."""
        return f"compared with the older report: {self.counted}"


def read_report(path: Path) -> dict[str, Any]:
    """The document of an older report, checked against the schema.

    Raises:
        StokerError: no such file, no JSON, or not a report of this version.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise StokerError(f"{path}: {error.strerror}: no older report to compare with") from None
    except (ValueError, RecursionError) as error:
        raise StokerError(f"{path}: no JSON: {error}") from None
    schema = json.loads(SCHEMA.read_text())
    wanted = schema["properties"]["version"]["const"]
    version = document.get("version") if isinstance(document, dict) else None
    if version != wanted:
        raise StokerError(
            f"{path}: a report of version {version!r}, not {wanted}: measure it again to compare"
        )
    wrong = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(document)
    )
    if wrong is not None:
        raise StokerError(f"{path}: no report: {wrong.json_path}: {wrong.message[:200]}")
    checked: dict[str, Any] = document
    return checked


def compare(old: Mapping[str, Any], new: Report) -> Comparison:
    """`new` beside the document `old`, contender by contender, figure by figure."""
    before = {row["name"]: row for row in old["results"]}
    now = {result.name: result for result in new.results}
    changes = [
        Change(result.title, figure, was, estimate, judge(figure, was, estimate))
        for name, result in now.items()
        if name in before
        for figure, estimate in result.estimates.items()
        if (was := _estimate(before[name]["estimates"].get(figure))) is not None
    ]
    doubts = [
        f"the {which} report is {what}"
        for which, flags in (
            ("older", (old["valid"], old["unstable"])),
            ("newer", (new.valid, new.unstable)),
        )
        for what, is_so in (("invalid", not flags[0]), ("unstable", flags[1]))
        if is_so
    ]
    return Comparison(
        tuple(changes),
        _different(old, new.document()),
        gone=tuple(row["title"] for name, row in before.items() if name not in now),
        added=tuple(result.title for name, result in now.items() if name not in before),
        doubts=tuple(doubts),
    )


def in_lines(found: Comparison) -> str:
    """For the console: what is more than noise, and what it can't be trusted for."""
    lines = [found.verdict, *(f"  careful: {doubt}" for doubt in found.doubts)]
    lines += [f"  not the same: {n}: {a} -> {b}" for n, (a, b) in found.conditions.items()]
    lines += [
        f"  {change.judgement}: {change.contender} {change.figure}"
        f" {interval(change.figure, change.old)} -> {interval(change.figure, change.new)}"
        for change in found.changes
        if change.judgement != "noise"
    ]
    return "\n".join(lines)


def judge(figure: str, old: Estimate, new: Estimate) -> Judgement:
    """Noise where the 95 % intervals touch or overlap."""
    if new.low <= old.high and old.low <= new.high:
        return "noise"
    if figure not in MORE_IS_BETTER:
        return "changed"
    return "better" if (new.value > old.value) == MORE_IS_BETTER[figure] else "worse"


def _estimate(row: Mapping[str, float | None] | None) -> Estimate | None:
    if row is None or any(row[name] is None for name in ("value", "low", "high")):
        return None
    return Estimate(**row)  # type: ignore[arg-type]


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    found = {}
    for place in CONDITIONS:
        was, now = old[place], new[place]
        if not isinstance(was, dict):
            was, now = {"": was}, {"": now}
        for name in dict.fromkeys((*was, *now)):
            then, today = was.get(name, "-"), now.get(name, "-")
            if then != today and (place, name) not in NO_CONDITION:
                found[f"{place} {name}".strip()] = (str(then), str(today))
    return found
