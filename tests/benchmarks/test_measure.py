"""Figures are what the formulas say, on timelines made by hand; and the loop is a real loop."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.profiles import PROFILES
from benchmarks.starvation.explain.evidence import explain, input_spans
from benchmarks.starvation.explain.figures import figures
from benchmarks.starvation.loop.measure import Plan, record, unthrottled
from benchmarks.starvation.loop.recording import HOST_STEP, STEP, Recording, Trace

MS = 1_000_000
TIMELINE = np.dtype([(name, np.int64) for name in ("asked", "arrived", "assembled", "delivered")])


def recording(gaps: list[int], step: int = 10, tokens: int = 100, warmup: int = 1) -> Recording:
    """Steps of `step` ms behind gaps of these ms, in each of which the loop waits in next()."""
    host, steps, at = [], [], 0
    for gap in gaps:
        host.append((at * MS, *((at + gap) * MS,) * 3))
        at += gap
        times = (at * MS, at * MS, at * MS, (at + step) * MS)
        steps.append((*times, MS // 10, 100, tokens, 1600))
        at += step
    trace = Trace(np.array(steps, dtype=STEP), 0)
    return Recording(np.array(host, dtype=HOST_STEP), trace, warmup, 5 * MS, 1.5, 1.0)


def test_stall_rate_gap_rate_and_goodput_are_the_formulas():
    run = recording([7, 0, 10, 0, 10], tokens=80)
    result = figures(run, explain(run))
    assert result.window_s == pytest.approx(0.060)
    assert result.stall_rate == result.gap_rate == pytest.approx(20 / 60)
    assert result.padding_efficiency == pytest.approx(0.8)
    assert result.goodput == pytest.approx(0.8 * 40 / 60)
    assert result.demand_tokens_per_s == pytest.approx(10_000)
    assert result.tokens_per_s == pytest.approx(4 * 80 / 0.060)
    assert list(result.gaps_ms) == [0, 10, 0, 10]
    assert result.starts_s == (0.0, 0.02, 0.03, 0.05)
    assert result.gap_max_ms == 10
    assert result.gap_p50_ms == 5
    assert result.longest_burst_steps == 1
    burst = recording([7, 0, 10, 1, 10, 0, 10])
    assert figures(burst, explain(burst)).longest_burst_steps == 3
    assert result.cpu_cores == 1.5
    assert result.overshoot_share == pytest.approx(0.4 / 60)
    assert result.valid
    assert not replace(result, overshoot_share=0.011).valid


def test_au_leaves_out_the_first_step_and_counts_the_warm_up():
    run = recording([50, 10, 0, 0], warmup=3)
    result = figures(run, explain(run))
    assert result.stall_rate == 0
    assert result.au == pytest.approx(30 / 40)


def test_a_wait_while_the_device_computes_is_no_stall():
    run = recording([0, 0, 0])
    busy_wait = run.host.copy()
    busy_wait["asked"] -= 9 * MS
    result = figures(replace(run, host=busy_wait), explain(replace(run, host=busy_wait)))
    assert result.stall_rate == result.gap_rate == 0


def test_a_wait_is_split_by_the_way_of_the_batch_it_waited_for():
    run = recording([0, 10])
    wait = run.host[1]
    since = int(wait["asked"])
    row = (since - 40 * MS, since + 4 * MS, since + 7 * MS, since + 9 * MS)
    other = (since - 90 * MS, since - 80 * MS, since - 70 * MS, since - 60 * MS)
    parts = explain(replace(run, timeline=np.array([row, other], dtype=TIMELINE))).nanoseconds
    assert (parts["fetch"], parts["assemble"], parts["queue"]) == (4 * MS, 3 * MS, 3 * MS)
    assert parts["input"] == parts["host"] == 0


def test_idle_time_before_the_wait_is_the_hosts_however_long_the_fetch_took():
    run = recording([0, 10])
    late = run.host.copy()
    late["asked"][1] += 6 * MS
    since = int(late["asked"][1])
    row = (since - 40 * MS, since + 4 * MS, since + 4 * MS, since + 4 * MS)
    parts = explain(replace(run, host=late, timeline=np.array([row], dtype=TIMELINE))).nanoseconds
    assert (parts["host"], parts["fetch"]) == (6 * MS, 4 * MS)


def test_a_wait_for_a_batch_not_yet_asked_for_is_input_of_no_told_cause():
    run = recording([0, 10])
    since = int(run.host[1]["asked"])
    row = (since + 2 * MS, since + 5 * MS, since + 6 * MS, since + 10 * MS)
    parts = explain(replace(run, timeline=np.array([row], dtype=TIMELINE))).nanoseconds
    assert [parts[c] for c in ("input", "fetch", "assemble", "queue")] == [
        2 * MS,
        3 * MS,
        MS,
        4 * MS,
    ]


moments = st.lists(st.integers(0, 500), min_size=4, max_size=4).map(sorted)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=12), st.lists(moments, max_size=6))
def test_any_timeline_of_any_loader_sums_to_the_window(gaps, rows):
    run = recording(gaps)
    timeline = np.array([tuple(at * MS for at in row) for row in rows], dtype=TIMELINE)
    parts = explain(replace(run, timeline=timeline))
    assert sum(parts.nanoseconds.values()) == parts.window
    result = figures(run, parts)
    assert sum(result.shares.values()) == pytest.approx(1)
    # Splitting a wait moves nothing into it and nothing out of it.
    assert result.stall_rate == pytest.approx(figures(run, explain(run)).stall_rate)


def test_a_loader_without_evidence_has_one_undivided_cause():
    run = recording([0, 10])
    assert [cause for cause, _ in input_spans(run.host, None)] == ["input"]


def test_the_loop_warms_up_then_measures_and_stops_when_its_time_is_over():
    profile = replace(PROFILES["h100-1b"], step_s=0.002, batch_size=2, seq_len=8, parameters=0)
    ids = torch.zeros(2, 8, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    device = EmulatedAccelerator(profile)
    seen: list[int] = []
    run, rest = record(lambda: itertools.repeat(batch), device, Plan(20, 5, 30), seen.append)
    assert seen == list(range(1, 26))
    assert len(run.host) == len(run.trace.steps) == 25
    assert run.warmup == 5
    assert unthrottled(rest, seconds=0.01) > 0

    run, _ = record(lambda: itertools.repeat(batch), device, Plan(10**6, 10**6, 0.05), seen.append)
    device.close()
    assert 0 < run.warmup < len(run.host) < 1000


def test_a_plan_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        Plan(steps=10, warmup=0, seconds=1)


def test_warm_up_is_found_in_the_loop_and_steps_are_measured_behind_it():
    profile = replace(PROFILES["h100-1b"], step_s=0.002, batch_size=2, seq_len=8, parameters=0)
    ids = torch.zeros(2, 8, dtype=torch.int64)

    def slow_at_first():
        for number in itertools.count():
            if number < 30:
                time.sleep(0.03)
            yield {"input_ids": ids, "labels": ids}

    device = EmulatedAccelerator(profile)
    run, _ = record(slow_at_first, device, Plan(steps=60), lambda _: None)
    device.close()
    assert run.warmup >= 25
    assert len(run.host) - run.warmup >= 60
    assert run.overhead_ns > 0
