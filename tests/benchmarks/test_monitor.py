"""A monitor in a loop of one's own sees the waits that are there, and costs next to nothing."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.starvation import StarvationMonitor
from benchmarks.starvation.cards.accelerator import wait_until
from loaders import DataLoader, TokenDataset
from shards.errors import StokerError
from tests.datasets import write_dataset

STEPS = 40
MS = 1_000_000
BATCH = {"input_ids": torch.ones(2, 8, dtype=torch.int64)}


def spent(milliseconds: float) -> int:
    """Nanoseconds that this took, however busy the machine is."""
    began = time.perf_counter_ns()
    return wait_until(began + round(milliseconds * MS)) - began


def batches(count: int, wait_ms: float, waits: list[int]) -> Iterator[dict[str, torch.Tensor]]:
    for _ in range(count):
        waits.append(spent(wait_ms))
        yield BATCH


def test_a_loop_that_waits_is_starved_by_as_much():
    waits: list[int] = []
    steps = []
    with StarvationMonitor(batches(STEPS, 3, waits), device="cpu") as monitor:
        for _ in monitor:
            steps.append(spent(3))
    report = monitor.report()
    result = report.results[0]
    assert sum(result.causes.values()) == result.window_ns
    first = monitor.recording().warmup
    assert result.causes["input"] == pytest.approx(sum(waits[first:]), rel=0.1)
    assert result.causes["compute"] == pytest.approx(sum(steps[first:]), rel=0.1)
    assert result.cannot_see == ("fetch", "prep", "workers", "assemble")
    assert result.advice[0].cause == "input"
    assert "loader starved" in report.verdict
    assert "mainly waiting for input" in report.verdict


def test_a_report_is_written_to_a_folder_named_by_a_string(tmp_path: Path):
    with StarvationMonitor([BATCH] * 3, device="cpu") as monitor:
        list(monitor)
    written = monitor.report().write(str(tmp_path / "report"))
    assert [path.name for path in written] == ["report.json", "report.html", "report.md"]
    assert all(path.parent == tmp_path / "report" and path.exists() for path in written)


def test_every_step_is_recorded_with_its_size():
    with StarvationMonitor(batches(STEPS, 0, []), device="cpu") as monitor:
        for _ in monitor:
            pass
    run = monitor.recording()
    assert len(run.host) == len(run.trace.steps) == STEPS
    assert (run.trace.steps["slots"] == 16).all()
    assert (run.trace.steps["bytes"] == 128).all()
    assert (run.host["asked"][1:] >= run.trace.steps["end"][:-1]).all()


def test_marked_spans_are_no_compute():
    steps, saves = [], []
    with StarvationMonitor(batches(STEPS, 0, []), device="cpu") as monitor:
        for _ in monitor:
            steps.append(spent(2))
            with monitor.span("checkpoint"):
                saves.append(spent(2))
    result = monitor.report().results[0]
    first = monitor.recording().warmup
    assert result.causes["checkpoint"] == pytest.approx(sum(saves[first:]), rel=0.1)
    assert result.causes["compute"] == pytest.approx(sum(steps[first:]), rel=0.1)


def test_a_garbage_collection_inside_a_step_is_named():
    with StarvationMonitor(batches(6, 0, []), device="cpu") as monitor:
        for _ in monitor:
            gc.collect()
    result = monitor.report().results[0]
    assert result.main_cause is None
    assert result.most_idle == "gc"
    assert result.counters["gc_collections"] >= 6


def test_what_it_says_so_far_sums_up_and_is_near_what_the_report_says():
    shares = []
    with StarvationMonitor(batches(STEPS, 3, []), device="cpu") as monitor:
        for _ in monitor:
            spent(3)
            with monitor.span("checkpoint"):
                spent(1)
            now = monitor.so_far()
            assert sum(now.causes.values()) == now.window_ns
            shares.append(now.causes.get("input", 0) / max(1, now.window_ns))
    now = monitor.so_far()
    assert now.steps == STEPS - 1
    result = monitor.report().results[0]
    for cause in ("input", "compute", "checkpoint"):
        assert now.causes[cause] / now.window_ns == pytest.approx(result.share(cause), abs=0.1)
    assert shares[-1] > 0.2


def test_only_known_causes_can_be_marked():
    with (
        StarvationMonitor([1]) as monitor,
        pytest.raises(ValueError, match="no span 'tea': choose one of h2d"),
        monitor.span("tea"),
    ):
        pass


def test_a_monitor_without_a_report_says_what_is_missing():
    monitor = StarvationMonitor([1], device="cpu", name="mine")
    with pytest.raises(StokerError, match="'mine' was never entered: write `with monitor:`"):
        monitor.report()
    with monitor:
        list(monitor)
        with pytest.raises(StokerError, match="'mine' is still watching"):
            monitor.report()
    with pytest.raises(StokerError, match="'mine' saw 1 steps: a report needs two"):
        monitor.report()


def interrupted(steps: int) -> StarvationMonitor[dict[str, torch.Tensor]]:
    """The monitor of a loop that raised in its last step."""
    monitor = StarvationMonitor([BATCH] * 10, device="cpu", name="mine")

    def loop() -> None:
        with monitor:
            for number, _ in enumerate(monitor, 1):
                if number == steps:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    return monitor


def test_a_loop_that_raised_has_the_report_of_its_steps_until_then_which_says_so():
    monitor = interrupted(6)
    report = monitor.report()
    assert len(monitor.recording().host) == 6
    assert report.setup["cut short"] == "by KeyboardInterrupt after 6 steps"
    result = report.results[0]
    assert sum(result.causes.values()) == result.window_ns


def test_a_loop_that_raised_too_early_has_none_and_the_error_names_why():
    with pytest.raises(StokerError, match="saw 1 steps until the loop raised KeyboardInterrupt"):
        interrupted(1).report()


def test_a_loop_that_ended_well_has_a_report_that_was_not_cut_short():
    with StarvationMonitor([BATCH] * 4, device="cpu") as monitor:
        list(monitor)
    assert "cut short" not in monitor.report().setup


def test_a_loop_that_is_left_and_entered_again_goes_on_in_the_same_record():
    data = [BATCH] * 10
    with StarvationMonitor(data, device="cpu") as monitor:
        for number, _ in enumerate(monitor):
            if number == 3:
                break
        spent(5)
        for _ in monitor:
            spent(0.1)
    run = monitor.recording()
    assert len(run.host) == 14
    # What the loop does between epochs is its own, not its loader's.
    assert run.epochs == (4,)
    result = monitor.report().results[0]
    assert (result.epoch_edge_gap_ms is not None) == (run.warmup <= 4)
    assert run.host["asked"][4] - run.trace.steps["end"][3] >= 5 * MS


def test_a_loop_before_or_behind_the_block_is_told_what_to_write():
    monitor = StarvationMonitor([1, 2, 3], name="mine")
    with pytest.raises(StokerError, match="'mine' watches only inside of its"):
        iter(monitor)
    with monitor:
        assert list(monitor) == [1, 2, 3]
    with pytest.raises(StokerError, match="write `with monitor:` around the loop"):
        iter(monitor)
    assert monitor.steps == 3


def test_a_monitor_is_entered_once():
    monitor = StarvationMonitor([BATCH] * 3, device="cpu", name="mine")
    with monitor:
        list(monitor)
        with pytest.raises(StokerError, match="'mine' was entered before"), monitor:
            pass
        list(monitor)
    with pytest.raises(StokerError, match="make a new one, or loop over it again"), monitor:
        pass
    assert len(monitor.recording().host) == 6


def test_an_error_in_the_loop_is_the_loops_own():
    def loop() -> None:
        with StarvationMonitor([1, 2, 3]) as monitor:
            for _ in monitor:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        loop()
    assert not [each for each in gc.callbacks if "Watch" in str(each)]


def test_stokers_loader_tells_what_its_batches_waited_for(tmp_path):
    write_dataset(str(tmp_path), [[np.arange(20_000, dtype=np.uint16)]])
    loader = DataLoader(TokenDataset(str(tmp_path), 64), 4, shuffle=True)
    with StarvationMonitor(loader, device="cpu") as monitor:
        for _ in monitor:
            spent(0.2)
    result = monitor.report().results[0]
    assert result.cannot_see == ()
    assert {"fetch", "assemble", "queue"} <= set(result.causes)
    assert sum(result.causes.values()) == result.window_ns


def test_watching_costs_microseconds_a_step():
    # 0.5 % of the shortest step that is worth watching, 20 ms.
    costs = []
    for _ in range(10):
        with StarvationMonitor([BATCH] * 200, device="cpu") as monitor:
            for _ in monitor:
                pass
        costs.append(monitor.overhead_ns / 200)
    assert np.min(costs) < 0.005 * 20 * MS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_a_wait_behind_queued_work_is_no_stall():
    a = torch.randn(4096, 4096, device="cuda")
    with StarvationMonitor([BATCH] * 100) as monitor:
        for _ in monitor:
            for _ in range(20):
                a = (a @ a).clamp(-1, 1)
    assert monitor.report().results[0].figures.gap_rate < 0.05
