"""Warm-up is found where it is, and an interval holds what it should as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.starvation.explain.statistics import Columns, estimate, spread, warmup_steps


def slow_start(steps: int, warmup: int, seed: int = 0) -> np.ndarray:
    times = np.random.default_rng(seed).normal(100.0, 3.0, steps)
    times[:warmup] *= np.linspace(3, 1.3, warmup)
    return times


@pytest.mark.parametrize("warmup", [0, 12, 25, 60])
def test_warm_up_is_found_where_steps_begin_slowly(warmup):
    found = [warmup_steps(slow_start(250, warmup, seed)) for seed in range(20)]
    assert warmup - 5 <= np.median(found) <= warmup + 10


def test_warm_up_takes_at_most_half_of_the_steps_and_none_of_a_few():
    assert warmup_steps(np.linspace(9, 1, 100)) <= 50
    assert warmup_steps(np.array([9.0, 1, 1, 1, 1, 1])) == 0
    assert warmup_steps(np.full(100, 5e8)) == 0


def stalls(seed: int, steps: int = 200, rate: float = 0.2) -> dict[str, np.ndarray]:
    """Stalls that come in bursts of ten steps, as a pool of workers makes them."""
    bursts = np.random.default_rng(seed).exponential(rate, -(-steps // 10)).repeat(10)[:steps]
    return {"period": 1 + bursts, "input": bursts}


def stall_rate(columns: Columns) -> float:
    return float(columns["input"].sum() / columns["period"].sum())


def test_an_estimate_is_the_median_of_the_seeds_inside_its_interval():
    seeds = [stalls(1), stalls(2), stalls(3)]
    made = estimate(seeds, {"stall_rate": stall_rate})["stall_rate"]
    assert made.value == sorted(map(stall_rate, seeds))[1]
    assert made.low < made.value < made.high
    assert estimate(seeds, {"stall_rate": stall_rate})["stall_rate"] == made


@pytest.mark.parametrize("count", [1, 3])
def test_intervals_hold_the_truth_about_as_often_as_they_say(count):
    truth = stall_rate(stalls(12345, steps=1_000_000))
    held = 0
    for number in range(30):
        seeds = [stalls(1000 * number + seed) for seed in range(count)]
        made = estimate(seeds, {"stall_rate": stall_rate})["stall_rate"]
        held += made.low <= truth <= made.high
    # Steps drawn one by one, bursts torn apart, held it 17 times with one seed.
    assert held >= 24


def test_a_loop_without_any_spread_has_no_interval():
    steady = {"period": np.full(50, 10.0), "input": np.full(50, 1.0)}
    made = estimate([steady] * 3, {"stall_rate": stall_rate})["stall_rate"]
    assert made.low == made.value == made.high == pytest.approx(0.1)


def test_seeds_that_differ_are_told_by_their_spread():
    assert spread([100.0, 104.0, 98.0]) == pytest.approx(0.06)
    assert spread([7.0]) == 0
