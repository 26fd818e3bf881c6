"""What a job did: the lines at its end, and the log beside the data: no clock but there."""

from __future__ import annotations

import json
import platform
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipelines.options import show_size
from shards.receipt import Counts
from shards.store import Store


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did.

    Attributes:
        counts: of the whole dataset.
        units, skipped: of the plan; those of them that an earlier run had done.
        new_text_bytes: UTF-8 bytes tokenized by this run.
        seconds: of this run; `before_tasks` of them until Ray could take a task.
        cluster: in words, where it ran; "" when nothing was to do.
        log: key of the log; "" when nothing was to do.
    """

    output: str
    plan: str
    engine: str
    reason: str
    counts: Counts
    units: int
    skipped: int
    new_text_bytes: int
    seconds: float
    before_tasks: float
    cluster: str = ""
    log: str = ""

    @property
    def nothing_to_do(self) -> bool:
        return not self.log

    @property
    def text_mb_per_s(self) -> float:
        """Of this run while tasks could run; MB are 10^6 bytes of UTF-8."""
        return self.new_text_bytes / 1e6 / max(self.seconds - self.before_tasks, 1e-9)

    def __str__(self) -> str:
        counts = self.counts
        size = show_size(counts.text_bytes)
        held = f"{counts.documents:,} documents, {counts.tokens:,} tokens from {size} of text"
        lines = [f"{self.output} holds {held}"]
        if self.nothing_to_do:
            lines[0] += ": nothing to do"
        else:
            lines.append(
                f"  speed       {self.text_mb_per_s:.1f} MB of text/s over "
                f"{self.seconds - self.before_tasks:.1f} s, after {self.before_tasks:.1f} s of "
                f"start; {self.cluster}"
            )
            skipped = f", {self.skipped} of them done before" if self.skipped else ""
            lines.append(f"  units       {self.units}{skipped}")
        lines.append(f"  engine      {self.engine}: {self.reason}")
        if counts.special_documents:
            lines.append(f"  documents with a special token's text: {counts.special_documents:,}")
        if counts.quarantined:
            lines.append(
                f"  bad rows    {counts.quarantined:,}, set apart in "
                f"{self.output}/quarantine/{self.plan}/"
            )
        lines.append(f"  look at it  python -m shards inspect {self.output}")
        return "\n".join(lines)


def write_log(store: Store, summary: Summary) -> None:
    """Writes `summary.log`: the summary with host, versions and time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {
        "finished": now,
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "text_mb_per_s": round(summary.text_mb_per_s, 3),
        **asdict(summary),
    }
    store.write(summary.log, json.dumps(content, indent=1).encode())


def log_key(plan: str) -> str:
    """A name of its own for the log of each run."""
    return f"logs/{plan}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.json"
