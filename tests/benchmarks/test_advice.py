"""Advice is what a person can act on: true of the run, worth the while, and never of a ceiling."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.explain.advice import WORTH, WORTH_OF_STALL, advise
from benchmarks.starvation.explain.causes import CAUSES, COMPUTE, INPUT_CAUSES
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.explain.result import Result, WorkersPoint
from benchmarks.starvation.loop.recording import Recording
from tests.benchmarks.recordings import loop, spans, work
from tests.benchmarks.reports import example_result


def merged(*recordings: Recording, **more: object) -> Result:
    return merge("it", "It", "a note", recordings, **more)  # type: ignore[arg-type]


def said(result: Result) -> dict[str, str]:
    return {each.cause: each.action for each in advise(result)}


def test_what_happened_in_one_seed_of_three_is_no_advice():
    quiet, burst = [0.0] * 40, [0.0] * 20 + [90.0] + [0.0] * 19
    assert said(merged(loop(quiet), loop(burst, seed=1), loop(quiet, seed=2))) == {}
    assert set(said(merged(*(loop(burst, seed=seed) for seed in range(3))))) == {"input"}


def test_a_cause_that_is_little_of_the_stall_is_left_for_later():
    begun = [10 + 30 * n for n in range(30)]
    rows = [
        part
        for n, at in enumerate(begun)
        for part in ((n + 1, 0, "prep", at - 5, at + 19), (n + 1, 0, "assemble", at + 19, at + 20))
    ]
    result = merged(loop([0, *[20] * 30], timeline=work(*rows)))
    assert result.share("assemble") > WORTH
    assert set(said(result)) == {"prep"}


def test_what_hides_behind_compute_once_the_loop_is_fed_is_not_advised_while_it_starves():
    starved = example_result("it", "It", {"prep": 0.3, "host": 0.1, "h2d": 0.1, "gc": 0.05})
    assert set(said(starved)) == {"prep"}
    fed = example_result("it", "It", {"prep": 0.01, "host": 0.1, "h2d": 0.1, "gc": 0.05})
    assert set(said(fed)) == {"host", "h2d", "gc"}
    saved = example_result("it", "It", {"prep": 0.3, "checkpoint": 0.1})
    assert set(said(saved)) == {"prep", "checkpoint"}


@pytest.mark.parametrize("cause", ["fetch", "prep", "input"])
def test_a_loader_that_is_too_slow_is_not_told_to_read_ahead(cause):
    slow = said(example_result("it", "It", {cause: 0.3}, unthrottled=390e3))[cause]
    assert "batches more" not in slow
    fast = said(example_result("it", "It", {cause: 0.3}, unthrottled=45e6))[cause]
    assert "batches more" in fast


def test_a_loader_nobody_saw_alone_is_too_slow_where_it_is_waited_for_in_most_steps():
    assert "Reading further ahead cannot help" in said(merged(loop([0, *[20] * 30])))["input"]
    now_and_then = [0.0, *([0.0] * 9 + [60.0]) * 4]
    assert "batches more ready" in said(merged(loop(now_and_then)))["input"]


def test_preprocessing_is_told_how_many_cores_it_needs_and_how_many_workers_helped():
    rates = {0: 2e3, 1: 2.5e3, 4: 2.6e3}
    points = [WorkersPoint(at, rate, rate / 10e3) for at, rate in rates.items()]
    rows = [(n + 1, 0, "prep", 30 * n + 5, 30 * n + 30) for n in range(30)]
    result = merged(
        loop([0, *[20] * 30], timeline=work(*rows)),
        unthrottled_tokens_per_s=2500.0,
        cpu_s_per_token=4.2e-4,
        workers=points,
    )
    # 10,000 tokens a second x 0.42 ms: 4.2 cores, of which there is no part to be had.
    assert "give it 5 CPU cores a card" in said(result)["prep"]
    assert "More than 1 worker brought nothing here." in said(result)["prep"]
    even = tuple(WorkersPoint(at, 2e3, 0.2) for at in (0, 1, 4))
    advice = said(replace(result, workers=even, cores_to_feed=0.7))["prep"]
    assert advice.endswith("give it 1 CPU core a card. Worker processes brought nothing here.")


def test_more_workers_are_not_advised_where_they_were_seen_to_bring_nothing():
    points = [WorkersPoint(at, 2e3, 0.2) for at in (1, 2, 4)]
    result = merged(loop([0, *[20] * 30]), unthrottled_tokens_per_s=2e3, workers=points)
    assert "Give it more workers" not in said(result)["input"]
    alone = merged(loop([0, *[20] * 30]), unthrottled_tokens_per_s=2e3)
    assert "Give it more workers" in said(alone)["input"]


def test_saving_by_one_rank_of_several_is_advice_too():
    saving = spans(*(("checkpoint", 30 * n + 10, 30 * n + 30) for n in range(8)))
    saver = loop([0, *[20] * 8], rank=0, spans=saving)
    # It saves before it asks; the other rank waits for its own input.
    saver.host["asked"] = saver.host["got"]
    runs = [saver, loop([0, *[20] * 8], rank=1)]
    assert merged(*runs).share("checkpoint") > WORTH
    assert "checkpoint" in said(merged(*runs))


shares = st.dictionaries(
    st.sampled_from([cause for cause in CAUSES if cause != COMPUTE]),
    st.floats(0, 0.06),
    max_size=len(CAUSES),
)


@given(shares)
def test_every_advice_is_about_something_that_is_worth_it(found):
    result = example_result("it", "It", found)
    stall = result.share(*INPUT_CAUSES)
    told = advise(result)
    assert [each.share for each in told] == sorted((each.share for each in told), reverse=True)
    for each in told:
        assert each.share >= WORTH
        assert each.cause not in INPUT_CAUSES or each.share >= WORTH_OF_STALL * stall
        assert each.evidence
        assert each.action.endswith(".")
