"""`report.json`: what a run did and took, for programs. The only place with a clock or a host.

docs/tokenizing.md describes its fields; one that changes its meaning raises `VERSION`.
"""

from __future__ import annotations

import json
import platform
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipelines.summary import Summary
from shards.store import Store

VERSION = 1


def report_key(plan: str) -> str:
    """A name of its own for the report of each run."""
    return f"logs/{plan}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}/report.json"


def write_report(store: Store, summary: Summary) -> None:
    """Writes `summary.log`."""
    store.write(summary.log, (json.dumps(make_report(summary), indent=1) + "\n").encode())


def make_report(summary: Summary) -> dict[str, Any]:
    """The content of `report.json`, a JSON object."""
    usage = summary.usage
    return {
        "version": VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "output": summary.output,
        "plan": summary.plan,
        "cluster": summary.cluster,
        "engine": summary.engine,
        "reason": summary.reason,
        "audited": summary.usage.audited,
        "counts": asdict(summary.counts),
        "totals": {
            split: {source: one.model_dump() for source, one in sources.items()}
            for split, sources in summary.totals.items()
        },
        "units": {
            "planned": summary.units,
            "done_before": summary.skipped,
            "done_now": usage.units,
            "begun_again": usage.retries,
        },
        "bytes": {
            "input": usage.input_bytes,
            "text": usage.text_bytes,
            "shards": usage.shard_bytes,
        },
        "tokens": usage.tokens,
        "seconds": {
            "start": _rounded(usage.start_s),
            "tasks": _rounded(usage.tasks_s),
            "finish": _rounded(usage.finish_s),
        },
        "cores": usage.cores,
        "text_mb_per_s": _rounded(usage.text_mb_per_s),
        "steady_text_mb_per_s": _rounded(usage.steady_mb_per_s),
        "text_mb_per_s_per_core": _rounded(usage.mb_per_s_per_core),
        "tokens_per_s": _rounded(usage.tokens_per_s),
        "unit_seconds": _rounded(usage.unit_s),
        "unit_cpu_seconds": _rounded(usage.unit_cpu_s),
        "cpu_seconds_per_gb": _rounded(usage.cpu_s_per_gb),
        "slots": {name: _rounded(share) for name, share in usage.slots.items()},
        "peak_rss_bytes": usage.peak_rss,
        "projection": None if usage.projection is None else asdict(usage.projection),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
