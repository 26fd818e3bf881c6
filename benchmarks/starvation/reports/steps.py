"""The raw rows behind a report: `steps.parquet`, one row a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.starvation.explain.causes import CAUSES
from benchmarks.starvation.explain.merge import attributions
from benchmarks.starvation.loop.recording import Recording

HOST_TIMES = ("asked", "got", "handed", "submitted")
DEVICE_TIMES = ("copy_start", "copy_end", "start", "end")
COUNTS = ("slots", "tokens", "bytes")

SCHEMA = pa.schema(
    [
        ("contender", pa.string()),
        ("seed", pa.int64()),
        ("rank", pa.int64()),
        ("step", pa.int64()),
        ("measured", pa.bool_()),
        *((f"{name}_ns", pa.int64()) for name in (*HOST_TIMES, *DEVICE_TIMES, "overshoot")),
        *((name, pa.int64()) for name in COUNTS),
        *((f"{cause}_ns", pa.int64()) for cause in CAUSES),
    ]
)


def step_table(contender: str, recordings: Sequence[Recording]) -> pa.Table:
    """Rows of `SCHEMA`, warm-up included, in order of seed, rank and step.

    Times are nanoseconds since the first batch of that seed and rank was asked for. The columns of
    causes are null in warm-up; elsewhere they sum to the time from the end of the step before.
    """
    tables = [pa.Table.from_batches([], SCHEMA)]
    for ranks in attributions(recordings):
        for recording, parts in ranks:
            host, device = recording.host, recording.trace.steps
            count, warmup = len(device), recording.warmup
            origin = host["asked"][0]
            causes = {
                f"{cause}_ns": pa.array(
                    np.concatenate([np.zeros(warmup, np.int64), parts.column(cause)]),
                    mask=np.arange(count) < warmup,
                )
                for cause in CAUSES
            }
            columns = {
                "contender": pa.array([contender] * count),
                "seed": np.full(count, recording.seed),
                "rank": np.full(count, recording.rank),
                "step": np.arange(count),
                "measured": np.arange(count) >= warmup,
                **{f"{name}_ns": host[name] - origin for name in HOST_TIMES},
                **{f"{name}_ns": device[name] - origin for name in DEVICE_TIMES},
                "overshoot_ns": device["overshoot"].copy(),
                **{name: device[name].copy() for name in COUNTS},
                **causes,
            }
            tables.append(pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA))
    return pa.concat_tables(tables)


def write_steps(tables: Sequence[pa.Table], folder: Path) -> Path:
    """`steps.parquet` in `folder`, which it makes; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "steps.parquet"
    pq.write_table(pa.concat_tables(tables), path)
    return path
