"""A report says how far the emulator was compared with a real card, and never more than that."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.checks.calibrate import calibrate, card_of
from benchmarks.starvation.checks.calibration import Calibration, Pair, read, words, write
from benchmarks.starvation.checks.faults import resident
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.trial import measure
from benchmarks.starvation.reports.markdown import markdown
from benchmarks.starvation.reports.page import render
from shards.errors import StokerError
from tests.benchmarks.support import report

MS = 1_000_000
GOOD = Pair("stoker", 0.95, 0.945, 10.0, 11.5)
CARD = Calibration("NVIDIA H100, Llama 1b", "2026-11-24", (GOOD,))


def test_without_a_calibration_every_form_of_a_report_says_uncalibrated(tmp_path, monkeypatch):
    nothing = tmp_path / "calibration.json"
    monkeypatch.setattr("benchmarks.starvation.checks.calibration.RECORD", nothing)
    made = report()
    assert made.document()["calibration"] == "uncalibrated"
    assert "uncalibrated. No GPU was used." in markdown(made)
    assert "uncalibrated" in render(made)


def test_a_calibration_that_holds_is_in_every_form_of_a_report(tmp_path, monkeypatch):
    path = write([CARD], tmp_path / "new" / "calibration.json")
    monkeypatch.setattr("benchmarks.starvation.checks.calibration.RECORD", path)
    said = (
        "calibrated against NVIDIA H100, Llama 1b on 2026-11-24: AU within 0.5 points,"
        " p99 gap within 15 %"
    )
    made = report()
    assert made.document()["calibration"] == said
    assert said in markdown(made)
    assert said in render(made)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"emulated_au": 0.939}, False),
        ({"emulated_gap_p99_ms": 12.1}, False),
        ({"emulated_gap_p99_ms": 7.9}, False),
        # Gaps that are next to nothing differ by a timer's noise.
        ({"gap_p99_ms": 0.01, "emulated_gap_p99_ms": 0.4}, True),
        ({"gap_p99_ms": 0.01, "emulated_gap_p99_ms": 0.9}, False),
    ],
)
def test_it_holds_within_a_point_and_a_fifth_and_says_when_it_does_not(change, holds):
    found = replace(CARD, pairs=(GOOD, replace(GOOD, **change)))
    assert found.holds is holds
    assert found.words.startswith("calibrated against" if holds else "uncalibrated: off")
    assert not replace(CARD, pairs=()).holds
    assert replace(CARD, pairs=()).words == "uncalibrated"


def test_other_accelerators_stay_and_the_same_one_is_replaced(tmp_path):
    path = tmp_path / "calibration.json"
    other = replace(CARD, accelerator="NVIDIA L40S, Llama 125m")
    newer = replace(CARD, date="2026-12-01")
    write([CARD, other], path)
    write([newer], path)
    assert {each.accelerator: each.date for each in read(path)} == {
        CARD.accelerator: "2026-12-01",
        other.accelerator: CARD.date,
    }
    assert "2026-12-01" in words(path)
    path.write_text('[{"accelerator": 1}]')
    with pytest.raises(StokerError, match="no record of calibrations"):
        read(path)


def table(steps: np.ndarray, launch_ns: int, copy_ns: int) -> pa.Table:
    """Measured steps of `slots` that took `a + b x slots`, as `steps.parquet` has them."""
    count = len(steps)
    start = np.arange(count) * 1_000 * MS
    return pa.table(
        {
            "measured": np.ones(count, bool),
            "slots": steps["slots"],
            "bytes": 16 * steps["slots"],
            "start_ns": start,
            "end_ns": start + steps["took"],
            "copy_start_ns": start,
            "copy_end_ns": start + copy_ns,
            "handed_ns": start,
            "submitted_ns": start + launch_ns,
        }
    )


@given(
    fixed=st.integers(1, 20 * MS),
    each=st.integers(100, 20_000),
    slots=st.lists(st.integers(64, 65_536), min_size=2, max_size=50),
)
def test_the_emulated_card_takes_for_each_batch_what_the_measured_one_took(fixed, each, slots):
    steps = np.zeros(len(slots), dtype=[("slots", "<i8"), ("took", "<i8")])
    steps["slots"], steps["took"] = slots, fixed + each * np.array(slots)
    profile, node = card_of("a card", table(steps, 3 * MS, MS))
    assert node.host_busy_ms == pytest.approx(3)
    for size, took in zip(slots, steps["took"], strict=True):
        assert profile.step_ns(size) == pytest.approx(took, rel=1e-3, abs=2)


def test_what_was_copied_in_no_time_was_launched_in_none():
    steps = np.array([(64, 5 * MS)] * 3, dtype=[("slots", "<i8"), ("took", "<i8")])
    profile, node = card_of("CPU", table(steps, 5 * MS, 0))
    assert node.host_busy_ms == 0
    assert profile.step_ns(64) == 5 * MS
    device = EmulatedAccelerator(profile, node=node)
    device.close()
    assert device.copy_ns(2**20) < MS


def test_contenders_are_compared_with_themselves_by_name():
    steps = np.array([(2048, 20 * MS)] * 3, dtype=[("slots", "<i8"), ("took", "<i8")])
    taken = table(steps, 0, 0)
    device = EmulatedAccelerator(card_of("a card", taken)[0])
    real, _ = measure(resident(), device, Plan(10, 2), seeds=1)
    device.close()
    document = {
        "accelerator": "a card",
        "environment": {"date": "2026-11-24 10:00 UTC"},
        "results": [json.loads(json.dumps(report(results=(real,)).document()["results"][0]))],
    }
    found = calibrate(document, taken, [resident()], Plan(10, 2))
    (pair,) = found.pairs
    assert (pair.contender, found.accelerator, found.date) == ("resident", "a card", "2026-11-24")
    assert pair.au == real.estimates["au"].value
    assert 0 < pair.emulated_au <= 1
