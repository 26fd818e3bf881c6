"""The deck's communication-bound jobs: the report says that data is not their problem."""

import pytest

from benchmarks.starvation.causes import INPUT_CAUSES
from benchmarks.starvation.contenders import Stoker
from benchmarks.starvation.faults import Material, Side, resident
from benchmarks.starvation.merge import merge
from benchmarks.starvation.profiles import DECK_STEPS, PROFILES

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
    assert "Adding data workers cannot help" in advice.action


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
