"""Seeds and ranks become one result that is exact in its sums, and advice that fits it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.starvation.explain.causes import INPUT_CAUSES
from benchmarks.starvation.explain.merge import attributions, merge
from benchmarks.starvation.explain.ranks import split_waits
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.loop.recording import Recording
from tests.benchmarks.recordings import MS, loop, spans, work


def merged(*recordings: Recording, **more: object) -> Result:
    return merge("it", "It", "a note", recordings, **more)  # type: ignore[arg-type]


def test_three_seeds_have_the_middle_ones_figures_and_all_of_their_nanoseconds():
    result = merged(*(loop([0, *[gap] * 20], seed=seed) for seed, gap in enumerate((10, 2, 4))))
    assert result.seeds == 3
    assert result.ranks == 1
    assert result.figures.stall_rate == pytest.approx(4 / 14)
    assert result.estimates["stall_rate"].value == pytest.approx(4 / 14)
    assert result.window_ns == sum(result.causes.values()) == 20 * (20 + 12 + 14) * MS
    assert result.causes["input"] == 20 * 16 * MS
    assert result.spread == pytest.approx(8 / 14)
    assert result.unstable
    assert not merged(loop([0, 5, 5]), loop([0, 5, 5], seed=1)).unstable


def test_a_rank_that_comes_late_makes_the_others_wait_for_it_and_not_for_the_network():
    # Both exchange from 26 on; rank 1 comes at 26, rank 0 was there at 22. It takes until 29.
    early = loop([0, 10], spans=spans(("communication", 22, 29)))
    late = loop([0, 10], spans=spans(("communication", 26, 29)), rank=1)
    for ranks in ([early, late], [late, early]):
        first, second = attributions(ranks)[0]
        assert first[1].nanoseconds["straggler"] == 4 * MS
        assert first[1].nanoseconds["communication"] == 3 * MS
        assert second[1].nanoseconds["straggler"] == 0
        assert second[1].nanoseconds["communication"] == 3 * MS


def test_a_rank_alone_can_not_tell_who_is_late():
    run = loop([0, 10], spans=spans(("communication", 22, 29)))
    assert attributions([run])[0][0][1].nanoseconds["communication"] == 7 * MS


arrivals = st.lists(st.integers(20, 30), min_size=2, max_size=6)


@given(arrivals, st.integers(30, 40))
def test_what_ranks_wait_for_each_other_stays_as_long_as_it_was(arrived, left):
    runs = [
        loop([0, 10, 10], spans=spans(("communication", at, left)), rank=rank)
        for rank, at in enumerate(arrived)
    ]
    told = split_waits(runs)
    for before, after in zip(runs, told, strict=True):
        assert _covered(before.spans) == _covered(after.spans)
    straggling = [_covered(each.spans[each.spans["cause"] == "straggler"]) for each in told]
    assert straggling == [(max(arrived) - at) * MS for at in arrived]


def _covered(rows: np.ndarray) -> int:
    return int((rows["stop"] - rows["start"]).sum())


def test_straggler_loss_compares_the_slowest_with_the_middle_rank():
    # Periods of 20 ms; ranks 0 and 1 wait 8 ms of it, rank 2 works through 18.
    def run(rank: int, at: int) -> Recording:
        rows = [("communication", 20 * n + at, 20 * n + 20) for n in range(1, 9)]
        return loop([10] * 9, spans=spans(*rows), rank=rank)

    result = merged(run(0, 12), run(1, 12), run(2, 18))
    assert result.straggler_loss == pytest.approx(1 - 12 / 18)
    assert result.comm_exposed == pytest.approx((8 + 8 + 2) / 60)
    assert merged(run(0, 12)).straggler_loss is None


def test_advice_names_the_largest_cause_with_its_share_of_the_stall():
    gaps = [0, *[20] * 30]
    begun = [10 + 30 * n for n in range(30)]
    rows = work(*((n + 1, 0, "fetch", at - 5, at + 18) for n, at in enumerate(begun)))
    result = merged(loop(gaps, timeline=rows), unthrottled_tokens_per_s=2500.0)
    first = result.advice[0]
    assert (first.cause, first.called, first.family) == ("fetch", "I/O latency", "data pipeline")
    assert first.evidence.startswith("90 % of the stall, 60 % of the window")
    assert "alone the loader gives 0.25 times what the device takes" in first.evidence
    assert first.action.startswith("Reading further ahead cannot help")
    assert result.main_cause == "fetch"
    fast = merged(loop(gaps, timeline=rows), unthrottled_tokens_per_s=25000.0)
    assert "Read further ahead, 3 batches more" in fast.advice[0].action


def test_data_workers_are_not_advised_where_ranks_wait_for_each_other():
    waits = [("communication", 20 * n + 14, 20 * n + 20) for n in range(1, 9)]
    result = merged(*(loop([10] * 9, spans=spans(*waits), rank=rank) for rank in (0, 1)))
    said = {each.cause: each.action for each in result.advice}
    assert "Adding data workers" not in said["communication"]  # input is the larger part there
    fed = merged(*(loop([0] * 9, 20, spans=spans(*waits), rank=rank) for rank in (0, 1)))
    assert [each.cause for each in fed.advice] == ["communication"]
    assert "Data is not the problem. Adding data workers cannot help" in fed.advice[0].action
    assert fed.main_cause is None


def test_padding_is_advised_against_and_is_no_cause():
    run = loop([0] * 20)
    run.trace.steps["tokens"] = 25
    result = merged(run)
    assert result.padding_lost == 0.75
    assert [(each.cause, each.action.split(":")[0]) for each in result.advice] == [
        ("padding", "Pack documents into rows")
    ]
    assert "padding" not in result.causes


def test_a_clean_run_is_told_nothing():
    assert merged(loop([0] * 20)).advice == ()


def test_a_ceiling_is_told_nothing_whatever_its_host_does():
    assert merged(loop([0, 5, 5]), bounded=False).advice == ()


def test_cores_to_feed_are_the_loaders_cpu_time_a_token_by_the_demand_of_a_card():
    # 100 tokens in 10 ms by two cards: 5,000 a second each; 0.2 ms of CPU a token.
    result = merged(loop([0, 5, 5]), cpu_s_per_token=2e-4, cards=2)
    assert result.cores_to_feed == pytest.approx(0.99 * 5000 * 2e-4)
    assert merged(loop([0, 5, 5])).cores_to_feed is None


def test_the_longest_gap_at_an_end_of_an_epoch_is_told():
    run = replace(loop([0, 5, 7, 30, 9]), epochs=(2, 4))
    assert merged(run).epoch_edge_gap_ms == pytest.approx(9)


def test_the_timeline_shows_the_first_steps_without_holes_on_the_device():
    waits = [("communication", 20 * n + 14, 20 * n + 20) for n in range(1, 99)]
    shown = merged(loop([10] * 99, spans=spans(*waits))).timeline
    assert shown is not None
    assert shown.steps == 60
    device = [span for span in shown.spans if span.lane == "device"]
    assert device[0].start_ms == 0
    for before, after in pairwise(device):
        assert after.start_ms == pytest.approx(before.stop_ms, abs=2e-4)
    assert device[-1].stop_ms == pytest.approx(60 * 20)
    assert {span.kind for span in device} == {"compute", "input", "communication"}
    assert {span.lane for span in shown.spans} == {"host", "device"}


@pytest.mark.parametrize(("waits", "seed"), [((10, 2, 4), 2), ((4, 1, 2, 9), 2), ((7,), 0)])
def test_the_run_that_is_drawn_is_the_one_in_the_middle(waits, seed):
    runs = [
        loop([0, *[gap] * 20], seed=at, rank=rank)
        for at, gap in enumerate(waits)
        for rank in (1, 0)
    ]
    result = merged(*runs)
    assert result.timeline is not None
    assert (result.timeline.seed, result.timeline.rank) == (seed, 0)
    assert set(result.figures.gaps_ms) == {waits[seed]}
    of = f" of 0-{len(waits) - 1}, the middle one" if len(waits) > 1 else ""
    assert result.drawn == f"seed {seed}{of}, rank 0"


def test_of_a_loader_that_tells_nothing_the_report_lists_what_it_cannot_see():
    run = loop([0, 5, 5])
    assert merged(run).cannot_see == ("fetch", "prep", "workers", "assemble")
    assert merged(replace(run, timeline=work((1, 0, "prep", 10, 15)))).cannot_see == ()
    assert merged(run, bounded=False).cannot_see == ()


@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=8), min_size=1, max_size=4))
def test_any_seeds_sum_to_their_windows(seeds):
    result = merge("it", "It", "", [loop(gaps, seed=n) for n, gaps in enumerate(seeds)])
    assert sum(result.causes.values()) == result.window_ns
    assert sum(result.figures.shares.values()) == pytest.approx(1)
    for run in result.runs:
        assert sum(run.causes.values()) == run.window_ns
    stall = sum(result.causes.get(cause, 0) for cause in INPUT_CAUSES)
    assert result.share(*INPUT_CAUSES) == stall / result.window_ns
