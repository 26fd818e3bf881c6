"""The raw rows of a run: every step, every nanosecond."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pyarrow.parquet as pq

from benchmarks.starvation.explain.causes import CAUSES
from benchmarks.starvation.reports.steps import SCHEMA, step_table, write_steps
from tests.benchmarks.recordings import MS, loop


def test_each_step_has_a_row_whose_causes_sum_to_its_time(tmp_path):
    fast, slow = loop([0, 1, 0, 4]), replace(loop([0, 9, 9]), seed=1)
    path = write_steps([step_table("mine", [slow, fast]), step_table("other", [fast])], tmp_path)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert [(r["contender"], r["seed"], r["step"]) for r in rows] == [
        *(("mine", 0, step) for step in range(4)),
        *(("mine", 1, step) for step in range(3)),
        *(("other", 0, step) for step in range(4)),
    ]
    for before, row in pairwise(rows):
        if not row["measured"]:
            assert row["compute_ns"] is None
            continue
        causes = sum(row[f"{cause}_ns"] for cause in CAUSES)
        assert causes == row["end_ns"] - before["end_ns"]
    assert [row["input_ns"] for row in rows[4:7]] == [None, 9 * MS, 9 * MS]
    assert rows[0]["asked_ns"] == 0


def test_nothing_recorded_is_a_file_without_rows(tmp_path):
    path = write_steps([step_table("mine", [])], tmp_path / "new")
    assert pq.read_table(path).num_rows == 0
