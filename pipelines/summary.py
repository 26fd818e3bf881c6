"""What a job did, in the lines at its end; `pipelines.report` has the same for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.options import show_size
from pipelines.usage import Usage
from shards.manifest import DocumentRules, Totals
from shards.receipt import Counts
from shards.words import row_lines


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did.

    Attributes:
        counts: of the whole dataset; totals: by split and source.
        rules: what became of documents besides encoding.
        units, skipped: of the plan; those of them that an earlier run had done.
        usage: what this run took.
        cluster: in words, where it ran; "" when nothing was to do.
        log: key of `report.json`; "" when nothing was to do.
    """

    output: str
    plan: str
    engine: str
    reason: str
    counts: Counts
    units: int
    skipped: int
    usage: Usage
    totals: Mapping[str, Mapping[str, Totals]] = field(default_factory=dict)
    rules: DocumentRules = field(default_factory=DocumentRules)
    cluster: str = ""
    log: str = ""

    @property
    def nothing_to_do(self) -> bool:
        return not self.log

    def __str__(self) -> str:
        counts = self.counts
        size = show_size(counts.text_bytes)
        held = f"{counts.documents:,} documents, {counts.tokens:,} tokens from {size} of text"
        lines = [f"{self.output} holds {held}"]
        if self.nothing_to_do:
            lines[0] += ": nothing to do"
        else:
            skipped = f", {self.skipped} of them done before" if self.skipped else ""
            lines.append(f"  units       {self.units}{skipped}; {self.cluster}")
            lines.extend(usage_lines(self.usage))
        lines.append(f"  engine      {self.engine}: {self.reason}")
        if self.usage.audited:
            lines.append(f"  audit       {self.usage.audited:,} documents encoded again: equal")
        if counts.rows != counts.documents:
            for number, line in enumerate(row_lines(counts, [self.rules])):
                lines.append(f"  {'' if number else 'rows':<12}{line}")
        if counts.special_documents:
            lines.append(f"  documents with a special token's text: {counts.special_documents:,}")
        if counts.quarantined:
            lines.append(
                f"  bad rows    {counts.quarantined:,}, set apart in "
                f"{self.output}/quarantine/{self.plan}/"
            )
        if not self.nothing_to_do:
            lines.append(f"  report      {self.output}/{self.log}")
        lines.append(f"  look at it  python -m shards inspect {self.output}")
        return "\n".join(lines)


def usage_lines(usage: Usage) -> list[str]:
    """What a run took, for people; nothing when it did no unit."""
    if not usage.units:
        return []
    steady = ""
    if usage.steady_mb_per_s is not None:
        steady = f", {usage.steady_mb_per_s:.3g} while all cores were at work"
    shares = usage.slots
    retries = f"; {usage.retries} begun again" if usage.retries else ""
    lines = [
        f"  speed       {usage.text_mb_per_s:.3g} MB of text/s{steady}; "
        f"{usage.tokens_per_s:,.0f} tokens/s",
        f"  time        {usage.start_s:.1f} s of start, {usage.tasks_s:.1f} s of units, "
        f"{usage.finish_s:.1f} s to finish{retries}",
        f"  cores       {usage.cores:.0f}: {shares['on_cpu']:.0%} at work in units, "
        f"{shares['waiting']:.0%} waiting in them, {shares['no_unit']:.0%} Ray's or idle",
        f"  CPU, RSS    {usage.cpu_s_per_gb:.1f} CPU-s a GB of text, at most "
        f"{show_size(usage.peak_rss)} a worker",
    ]
    if usage.projection is not None:
        lines.append(f"  would cost  {usage.projection}")
    return lines
