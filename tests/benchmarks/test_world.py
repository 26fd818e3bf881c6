"""Several processes are one run: they start, stop and fail together, each on its own share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.command import main
from benchmarks.starvation.loop.launch import launch
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.world import AHEAD, World, joined, told
from shards.errors import StokerError

SECOND = 1_000_000_000
QUICK = [
    *("--seq-len", "128", "--batch-size", "4", "--time-scale", "0.2"),
    *("--steps", "20", "--warmup", "4", "--seconds", "30", "--seeds", "2"),
]


@given(
    seconds=st.floats(1, 20),
    periods=st.lists(st.integers(SECOND // 100, SECOND), min_size=1, max_size=20),
    offset=st.integers(0, SECOND),
    lag=st.integers(-4, 4),
)
def test_all_ranks_stop_at_the_same_step_though_none_knows_the_others_clock(
    seconds, periods, offset, lag
):
    store = dist.HashStore()  # type: ignore[attr-defined]
    plans = [
        World(rank, 2, "gloo", store).plan(Plan(200, 20, seconds), "stoker/0") for rank in range(2)
    ]
    ends: list[list[int]] = [[], []]
    over = [False, False]
    at = 0
    # Rank 1 is `lag` steps ahead or behind, and its clock is `offset` late.
    order = [(0, step) for step in range(260)] + [(1, step) for step in range(260)]
    for rank, step in sorted(order, key=lambda each: (each[1] + lag * each[0], each[0])):
        at += periods[step % len(periods)] // 2
        if not over[rank]:
            ends[rank].append(at + offset * rank)
            over[rank] = plans[rank].over(ends[rank], 0)
    assert all(over)
    assert len(ends[0]) == len(ends[1]) <= 220


def test_a_run_of_one_stops_by_its_own_clock():
    plan = World().plan(Plan(5, 2, 1.0), "x")
    assert plan == Plan(5, 2, 1.0)
    assert AHEAD > 4


@given(st.integers(1, 9), st.integers(1, 30))
def test_every_part_is_dealt_to_one_rank_and_no_rank_has_none(size, count):
    parts = list(range(count))
    dealt = [World(rank, size).share(parts) for rank in range(size)]
    assert all(dealt)
    if count >= size:
        assert sorted(part for mine in dealt for part in mine) == parts


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_an_environment_that_says_nonsense_is_an_error(rank, size, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(StokerError, match=f"RANK={rank} and WORLD_SIZE={size}"):
        told()


def test_another_number_of_ranks_than_was_started_is_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StokerError, match="--ranks 3, and 2 were started"), joined(3):
        pass


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        ("1", "killed", "rank 1 of 3 was killed by SIGKILL; the other ranks were ended"),
        ("2", "failed", "rank 2 of 3 ended with exit code 1, saying: there is no disk"),
        ("0", "failed", "rank 0 of 3 ended with exit code 1: see above"),
    ],
)
def test_a_rank_that_ends_early_ends_all_and_is_named(rank, how, message):
    began = time.monotonic()
    with pytest.raises(StokerError, match=message):
        launch([rank, how], 3, "tests.benchmarks.rank_that_ends")
    # The others would have slept for a minute.
    assert time.monotonic() - began < 50


def test_ranks_that_end_well_are_no_error():
    launch(["0", "well"], 2, "tests.benchmarks.rank_that_ends")


def check(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    assert document["accelerator"].startswith("emulated(2 ranks of H100 124M")
    assert document["cards"] == 2
    assert document["setup"]["ranks"] == "2 processes, by gloo"
    for result in document["results"]:
        assert sum(result["causes"].values()) == result["window_ns"]
        assert result["ranks"] == result["seeds"] == 2
        assert {(run["seed"], run["rank"]) for run in result["runs"]} == {
            (seed, rank) for seed in range(2) for rank in range(2)
        }
        assert {run["steps"] for run in result["runs"]} == {20}
        assert result["straggler_loss"] is not None
        assert result["comm_exposed"] is not None
        assert result["causes"]["straggler"] > 0


@pytest.mark.slow
def test_the_command_starts_its_ranks_and_one_report_holds_them_all(made, tmp_path):
    text = ["--text", *made.files, "--workers", "1"]
    arguments = ["--data", made.tokens, "--output", str(tmp_path), *text, *QUICK]
    assert main([*arguments, "--ranks", "2"]) == 0
    check(tmp_path)


@pytest.mark.slow
def test_the_command_joins_the_ranks_that_torchrun_started(made, tmp_path, repository: Path):
    arguments = ["--data", made.tokens, "--output", str(tmp_path), *QUICK]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "benchmarks.starvation", *arguments],
        cwd=repository,
        timeout=280,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path)
    # Only rank 0 speaks.
    assert done.stdout.count("report.html") == 1


@pytest.mark.slow
def test_ranks_train_a_real_model_together_on_the_cpu(made, tmp_path):
    arguments = ["--data", made.tokens, "--output", str(tmp_path), "--model", "tiny"]
    quick = ["--seq-len", "32", "--steps", "10", "--warmup", "2", "--seeds", "1"]
    assert main([*arguments, *quick, "--ranks", "2"]) == 0
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["accelerator"] == "2 ranks of CPU, Llama tiny, float32"
    for result in document["results"]:
        assert sum(result["causes"].values()) == result["window_ns"]
        assert {run["steps"] for run in result["runs"]} == {10}
        # What a rank waits for the gradients of the other is seen.
        assert result["causes"]["communication"] + result["causes"]["straggler"] > 0
        assert result["causes"].get("not_separable", 0) == 0


def batches_until_killed():
    """Batches of a loader whose rank 1 is killed in the middle of them."""
    import torch

    batch = {name: torch.ones(4, 128, dtype=torch.int64) for name in ("input_ids", "labels")}
    for number in range(1000):
        if number == 10 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), 9)
        yield batch


@pytest.mark.slow
def test_a_rank_that_dies_in_its_loop_ends_the_run_and_is_named(made, tmp_path, capfd):
    own = ["--loader", "tests.benchmarks.test_world:batches_until_killed"]
    arguments = ["--data", made.tokens, "--output", str(tmp_path / "new"), *own, *QUICK]
    assert main([*arguments, "--ranks", "2"]) == 1
    said = capfd.readouterr().err
    assert "rank 1 of 2 was killed by SIGKILL; the other ranks were ended with it" in said
    assert not (tmp_path / "new").exists()
