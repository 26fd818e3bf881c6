"""The ladder agrees with the attribution where evidence is true, and says so where it is not."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmarks.starvation.accelerator import Node
from benchmarks.starvation.contenders import Stoker
from benchmarks.starvation.faults import (
    LATENCY_MS,
    ROWS,
    SEQ_LEN,
    STREAMED,
    STREAMED_STEP_S,
    Material,
    card,
    resident,
)
from benchmarks.starvation.ladder import Card, Rung, climb, rungs
from benchmarks.starvation.measure import Plan

PLAN = Plan(steps=60, warmup=8, seconds=60.0)
SHORT = Plan(steps=12, warmup=4, seconds=60.0)


@pytest.mark.slow
def test_ladder_and_attribution_agree_on_a_store_that_answers_late(tmp_path):
    stoker = Stoker(Material(tmp_path).tokens, SEQ_LEN, ROWS, options=STREAMED)
    with rungs(stoker, resident().batch, Node(), LATENCY_MS) as levels:
        assert [each.level for each in levels] == ["L0", "L1", "L2", "L3", "L4"]
        ladder = climb(levels, Card(card(STREAMED_STEP_S)), PLAN)
    assert ladder.agrees
    assert (ladder.levels[4].added or 0) > 0.3
    assert (ladder.levels[4].attributed or 0) > 0.3
    assert ladder.contender == "stoker-s3-200ms"


def test_a_slow_link_is_what_its_level_adds():
    batch = resident()
    nbytes = sum(tensor.nbytes for tensor in batch.batch.values())
    slow = Node(h2d_bytes_per_s=nbytes / 0.03)
    levels = [
        Rung("L0", "resident", (), batch, Node(h2d_bytes_per_s=1e18)),
        Rung("L1", "copied", ("h2d",), batch, slow),
    ]
    ladder = climb(levels, Card(card(0.02)), SHORT)
    assert ladder.levels[1].added == pytest.approx(1 / 3, abs=0.05)
    assert ladder.agrees
    assert ladder.levels[0].step_ms.value == pytest.approx(20, rel=0.2)
    # What a level adds must be in its own causes: nothing else explains it.
    wrong = climb([levels[0], replace(levels[1], causes=("fetch",))], Card(card(0.02)), SHORT)
    assert not wrong.agrees


@dataclass
class Liar(Stoker):
    """Stoker, that calls all its fetching assembling."""

    def timeline(self) -> np.ndarray:
        rows = super().timeline().copy()
        rows["arrived"] = rows["asked"]
        return rows


@pytest.mark.slow
def test_evidence_that_lies_is_found_out_by_the_ladder(tmp_path):
    uri = Material(tmp_path).tokens
    far = Liar(uri, SEQ_LEN, ROWS, options=STREAMED, latency_ms=LATENCY_MS)
    levels = [
        Rung("L0", "resident", (), resident(), Node()),
        Rung("L4", "S3", ("fetch",), far, Node()),
    ]
    ladder = climb(levels, Card(card(STREAMED_STEP_S)), PLAN)
    assert not ladder.agrees
