"""The deck's communication-bound jobs: the report says that data is not their problem."""

import re
from dataclasses import replace

import pytest

from benchmarks.starvation.cards.profiles import DECK_8B, DECK_STEPS, PROFILES
from benchmarks.starvation.checks.faults import Material, Side, resident
from benchmarks.starvation.contenders import Stoker
from benchmarks.starvation.explain.advice import advise
from benchmarks.starvation.explain.causes import INPUT_CAUSES
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.options import Options
from benchmarks.starvation.run import run
from tests.benchmarks.reports import example_result

SCALE = 1 / 600


@pytest.mark.parametrize("network", ["shm", "efa", "eni", "g6e"])
def test_ranks_that_wait_for_the_network_are_not_told_to_add_data_workers(network):
    profile = PROFILES[f"deck-8b-{network}"]
    side = Side(resident(1, 280), profile, ranks=4, time_scale=SCALE)
    result = merge("deck", "deck", "", side.run(steps=12))
    assert result.most_idle == "communication"
    assert result.share(*INPUT_CAUSES) < 0.05
    # Of what isn't this machine's own noise, which goes to other causes.
    waits, computes = result.share("communication"), result.share("compute")
    share = profile.communication_s / (profile.step_s + profile.communication_s)
    assert waits / (waits + computes) == pytest.approx(share, abs=1e-3)
    advice = result.advice[0]
    assert (advice.family, advice.called) == ("communication", "network bandwidth")
    faster = 1 / (1 - result.share("communication", "straggler"))
    assert "the ranks wait for each other. Without those waits they would" in advice.action
    assert f"{faster:.1f} times as fast, at most" in advice.action


@pytest.mark.parametrize(
    ("card", "minutes", "seconds"), [("l40s-1b-deck", 19, 26), ("a100-1b-deck", 20, 40)]
)
def test_a_deck_card_takes_its_wall_time_for_2295_steps_of_16_rows_of_280_slots(
    card, minutes, seconds
):
    profile = PROFILES[card]
    wall = 60 * minutes + seconds
    assert 2295 * profile.step_ns(16 * 280) / 1e9 == pytest.approx(wall, rel=0.001)
    # What does not shrink with the batch is little: a slot costs nearly the same in any step.
    assert profile.fixed_ns < 0.07 * profile.step_ns(16 * 280)
    assert profile.step_ns(16 * 512) == pytest.approx(
        profile.fixed_ns + profile.slot_ns * 16 * 512, abs=1
    )


@pytest.mark.parametrize("network", DECK_8B)
def test_a_step_of_minutes_is_shortened_so_that_a_run_takes_minutes(network):
    profile = PROFILES[f"deck-8b-{network}"]
    assert profile.time_scale * (profile.step_s + profile.communication_s) == pytest.approx(0.1)
    assert profile.step_slots == profile.batch_size * profile.seq_len == 280


def test_where_nothing_waits_for_input_data_workers_cannot_help():
    base = replace(example_result("own", "own", {"communication": 0.8}), runs=())
    (advice,) = advise(base)
    assert advice.action.startswith("Data is not the problem. Adding data workers cannot help:")
    assert "5.0 times as fast, at most" in advice.action
    assert advice.evidence.startswith("80 % of the window in the exchange, 0.0 % waiting for input")


def test_data_workers_win_back_no_more_than_the_stall():
    base = replace(example_result("own", "own", {"communication": 0.5, "input": 0.1}), runs=())
    advice = {each.cause: each for each in advise(base)}["communication"]
    assert advice.action.startswith("Data workers can win back 10 % at most: mostly the ranks")
    assert "2.0 times as fast, at most" in advice.action
    assert advice.evidence.startswith(
        "50 % of the window in the exchange, 10 % waiting for input; the loader alone is"
    )


def test_a_rank_that_is_late_for_want_of_data_is_to_be_fed():
    result = example_result("own", "own", {"straggler": 0.3, "input": 0.1})
    hungry = replace(result.runs[1], own_work_ms=140.0, stall_rate=0.4)
    runs = (replace(result.runs[0], stall_rate=0.0), hungry)
    (advice,) = [a for a in advise(replace(result, runs=runs)) if a.cause == "straggler"]
    assert advice.action.startswith(
        "Rank 1 waits for input 40 % of its time, the others 0.0 %: feed that one first"
    )
    slow = tuple(replace(run, stall_rate=0.0) for run in runs)
    (advice,) = [a for a in advise(replace(result, runs=slow)) if a.cause == "straggler"]
    assert "Adding data workers cannot help" in advice.action
    assert advice.evidence.endswith("rank 1 works 140 ms a step, the others 70")


def test_the_nvlink_run_is_all_compute_and_the_others_never_faster():
    nvlink = PROFILES["deck-8b-nvlink"]
    assert nvlink.step_s * DECK_STEPS == 16 * 60 + 21
    for name, profile in PROFILES.items():
        if name.startswith("deck-8b-"):
            assert profile.step_s == nvlink.step_s
            assert profile.communication_s >= 0


@pytest.mark.slow
def test_stokers_loader_is_not_their_problem_either(tmp_path):
    stoker = Stoker(Material(tmp_path).tokens, 280, 1)
    side = Side(stoker, PROFILES["deck-8b-eni"], time_scale=SCALE)
    result = merge("stoker", "Stoker", "", side.run(steps=60))
    assert result.figures.stall_rate < 0.01
    assert result.most_idle == "communication"


@pytest.mark.slow
def test_the_command_says_first_that_the_ranks_wait_for_each_other(tmp_path):
    options = Options(
        data=Material(tmp_path).tokens, output=tmp_path / "report", profile="deck-8b-eni",
        steps=40, seeds=1, warmup=4, time_scale=SCALE,
    )  # fmt: skip
    report = run(options)
    waits, computes = (report.results[1].share(cause) for cause in ("communication", "compute"))
    assert waits / (waits + computes) == pytest.approx(
        1 - (16 * 60 + 21) / (80 * 60 + 29), abs=0.01
    )
    assert re.search(r"but \d+ % of the time its ranks wait for each other", report.verdict)
    assert "ranks wait for each other. Without" in (options.output / "report.md").read_text()
