"""The ladder agrees with the attribution where evidence is true, and says so where it is not."""

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmarks.starvation.cards.accelerator import Node
from benchmarks.starvation.checks.faults import (
    LATENCY_MS,
    ROWS,
    SEQ_LEN,
    STREAMED,
    STREAMED_STEP_S,
    Material,
    card,
    resident,
)
from benchmarks.starvation.checks.ladder import Card, climb
from benchmarks.starvation.checks.rungs import Rung, Rungs, no_room, rungs
from benchmarks.starvation.contenders import Stoker
from benchmarks.starvation.loop.measure import Plan
from shards.store import open_store

PLAN = Plan(steps=60, warmup=8, seconds=60.0)
SHORT = Plan(steps=12, warmup=4, seconds=60.0)


@pytest.mark.slow
def test_ladder_and_attribution_agree_on_a_store_that_answers_late(tmp_path):
    stoker = Stoker(Material(tmp_path).tokens, SEQ_LEN, ROWS, options=STREAMED)
    with rungs(stoker, resident().batch, Node(), LATENCY_MS) as levels:
        assert [each.level for each in levels.found] == ["L0", "L1", "L2", "L3", "L4"]
        assert levels.left_out == {}
        ladder = climb(levels, Card(card(STREAMED_STEP_S)), PLAN)
    assert ladder.agrees
    assert (ladder.levels[4].added or 0) > 0.3
    assert (ladder.levels[4].attributed or 0) > 0.3
    assert ladder.contender == "stoker-s3-200ms"


def test_a_slow_link_is_what_its_level_adds():
    batch = resident()
    nbytes = sum(tensor.nbytes for tensor in batch.batch.values())
    slow = Node(h2d_bytes_per_s=nbytes / 0.03)
    levels = (
        Rung("L0", "resident", (), batch, Node(h2d_bytes_per_s=1e18)),
        Rung("L1", "copied", ("h2d",), batch, slow),
    )
    # Its levels run one after the other: a machine that is busy during one of them spoils it.
    tries = (climb(Rungs(levels), Card(card(0.02)), SHORT) for _ in range(8))
    ladder = next((each for each in tries if each.agrees), None)
    assert ladder is not None
    assert ladder.levels[0].step_ms.value > 19.9
    assert (ladder.levels[1].added or 0) > 0.15
    # What a level adds must be in its own causes: nothing else explains it.
    wrong = climb(
        Rungs((levels[0], replace(levels[1], causes=("fetch",)))), Card(card(0.02)), SHORT
    )
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
    levels = (
        Rung("L0", "resident", (), resident(), Node()),
        Rung("L4", "S3", ("fetch",), far, Node()),
    )
    ladder = climb(Rungs(levels), Card(card(STREAMED_STEP_S)), PLAN)
    assert not ladder.agrees


@pytest.fixture
def on_s3(s3, tmp_path) -> Stoker:
    """Stoker over a dataset in a bucket."""
    here, there = open_store(Material(tmp_path).tokens), open_store(f"{s3.bucket('ladder')}/tokens")
    for entry in here.list():
        there.write(entry.key, here.read(entry.key))
    return Stoker(there.uri, SEQ_LEN, ROWS)


def test_a_dataset_on_s3_is_downloaded_for_the_levels_below_and_gone_afterwards(on_s3, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    batch = next(on_s3.open())
    with rungs(on_s3, batch, Node(), 0.0, scratch=scratch) as levels:
        by_level = {each.level: each.contender for each in levels.found}
        assert list(by_level) == ["L0", "L1", "L2", "L3", "L4"]
        assert by_level["L4"] == on_s3
        copies = [by_level[level] for level in ("L2", "L3")]
        for copy in copies:
            assert isinstance(copy, Stoker)
            assert "://" not in copy.uri
            # The order is the dataset's: its copies give the same first batch.
            assert next(copy.open())["input_ids"].equal(batch["input_ids"])
        assert len(list(scratch.iterdir())) == 1
        ladder = climb(levels, Card(card(0.002)), Plan(steps=3, warmup=1, seconds=20))
    assert [level.level for level in ladder.levels] == list(by_level)
    assert list(scratch.iterdir()) == []


def test_a_level_whose_copy_has_no_room_is_left_out_and_the_next_has_its_causes(on_s3, tmp_path):
    nowhere, batch = tmp_path / "nowhere", next(on_s3.open())
    made = {"prep", "workers", "assemble", "queue"}
    with rungs(on_s3, batch, Node(), 0.0, scratch=tmp_path, memory=nowhere) as levels:
        assert levels.left_out == {"L2": f"there is no {nowhere}"}
        assert [each.level for each in levels.found] == ["L0", "L1", "L3", "L4"]
        assert set(levels.found[2].causes) == made | {"fetch"}
    with rungs(on_s3, batch, Node(), 0.0, scratch=nowhere) as levels:
        assert set(levels.left_out) == {"L2", "L3"}
        assert [each.level for each in levels.found] == ["L0", "L1", "L4"]
        assert set(levels.found[2].causes) == made | {"fetch", "input"}


def test_a_copy_needs_room_twice(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert no_room(free // 4, tmp_path) is None
    assert "has no room in" in (no_room(free, tmp_path) or "")
    assert "2 GB are not downloaded, 1 GB are the most" in (
        no_room(2 * 10**9, tmp_path, 10**9) or ""
    )
