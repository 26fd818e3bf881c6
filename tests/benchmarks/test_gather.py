"""Recordings of real ranks come together on every rank, on one clock, and tell who was late."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.starvation.explain.evidence import explain
from benchmarks.starvation.loop.gather import decode, encode, shifted
from benchmarks.starvation.loop.recording import Recording
from tests.benchmarks.recordings import MS, loop, spans, work


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool((one == other).all())
    return bool(one == other)


def full() -> Recording:
    run = loop([0, 10, 10], spans=spans(("communication", 24, 28), ("gc", 30, 31)), rank=1)
    rows = work((1, 0, "prep", 5, 16), (2, 1, "fetch", 28, 33))
    trace = replace(run.trace, spans=spans(("straggler", 24, 25)), checksum=2**64 - 1)
    return replace(run, trace=trace, timeline=rows, cut=("gc",), separable=False, seed=7)


@pytest.mark.parametrize("run", [full(), loop([0, 1])])
def test_a_recording_that_travelled_is_the_one_that_was_sent(run):
    back = decode(encode(run))
    for field in fields(Recording):
        if field.name != "trace":
            assert same(getattr(back, field.name), getattr(run, field.name)), field.name
    for field in fields(run.trace):
        assert same(getattr(back.trace, field.name), getattr(run.trace, field.name)), field.name


def test_objects_are_not_taken_from_another_rank():
    run = full()
    with pytest.raises(ValueError, match="allow_pickle=False"):
        encode(replace(run, host=np.array([object()])))


def test_a_recording_on_another_clock_says_the_same():
    run = full()
    there = shifted(run, 123 * MS)
    assert explain(there).nanoseconds == explain(run).nanoseconds
    assert (there.host["asked"] == run.host["asked"] + 123 * MS).all()
    assert shifted(there, -123 * MS).trace.steps.tolist() == run.trace.steps.tolist()


def reports(folder: Path, marked: str) -> list[Any]:
    program = [sys.executable, "-m", "tests.benchmarks.rank_program", str(folder)]
    ranks = [subprocess.Popen([*program, str(rank), "2", marked]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_ranks_tell_which_of_them_is_late(tmp_path):
    first, second = reports(tmp_path, "marked")
    result = first["results"][0]
    assert result["ranks"] == first["cards"] == 2
    assert second["results"][0]["causes"] == result["causes"]
    assert sum(result["causes"].values()) == result["window_ns"]
    early, late = result["runs"]
    assert (early["rank"], late["rank"]) == (0, 1)
    # The early one waits for nearly all that the late one works longer.
    steps = early["steps"]
    assert early["causes"]["straggler"] > 0.8 * steps * 12 * MS
    assert late["causes"]["straggler"] < 0.2 * early["causes"]["straggler"]
    assert result["straggler_loss"] > 0.2
    advice = {each["cause"]: each for each in result["advice"]}
    assert "rank 1 works" in advice["straggler"]["evidence"]
    assert advice["straggler"]["action"].startswith("Adding data workers cannot help")


@pytest.mark.slow
def test_steps_of_several_ranks_that_mark_nothing_are_not_separable(tmp_path):
    result = reports(tmp_path, "opaque")[0]["results"][0]
    assert result["causes"]["not_separable"] > 0.5 * result["window_ns"]
    assert result["causes"]["compute"] == 0
    assert result["comm_exposed"] is None
    assert result["straggler_loss"] is None
