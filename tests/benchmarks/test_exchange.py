"""Ranks wait for each other at the end of every step, as threads and as processes."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.exchange import Ranks
from benchmarks.starvation.cards.profiles import PROFILES
from shards.errors import StokerError

MS = 1_000_000
FAST = replace(
    PROFILES["h100-1b"], step_s=0.01, batch_size=2, seq_len=8, parameters=0, h2d_bytes_per_s=1e12
)
IDS = torch.zeros(2, 8, dtype=torch.int64)
BATCH = {"input_ids": IDS, "labels": IDS}


def run_ranks(profiles, steps=5):
    """The traces of ranks with these profiles, a thread each."""
    ranks, traces = Ranks(len(profiles)), {}

    def train(rank):
        device = EmulatedAccelerator(profiles[rank], exchange=ranks.member(rank))
        for _ in range(steps):
            device.submit(BATCH)
        traces[rank] = device.finish()
        device.close()

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(len(profiles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [traces[rank] for rank in range(len(profiles))]


def test_all_ranks_end_a_step_together_and_the_fast_ones_know_who_kept_them():
    slow = replace(FAST, step_s=0.03, communication_s=0.005)
    fast = replace(FAST, communication_s=0.005)
    traces = run_ranks([fast, slow, fast])
    for trace in traces:
        assert (trace.steps["end"] == traces[1].steps["end"]).all()
        exchanged = trace.spans[trace.spans["cause"] == "communication"]
        assert (exchanged["stop"] - exchanged["start"] == 5 * MS).all()
        assert len(exchanged) == 5
    waits = [t.spans[t.spans["cause"] == "straggler"] for t in traces]
    for of_fast in (waits[0], waits[2]):
        assert len(of_fast) == 5
        assert (of_fast["stop"][1:] - of_fast["start"][1:] == 20 * MS).all()
    # The slow one waits at most for others to begin at all.
    assert (waits[1]["start"] < traces[1].steps["end"][0]).all()


def test_one_rank_alone_communicates_with_nobody_late():
    device = EmulatedAccelerator(replace(FAST, communication_s=0.02), time_scale=0.5)
    device.submit(BATCH)
    trace = device.finish()
    device.close()
    assert trace.spans["cause"].tolist() == ["communication"]
    assert trace.steps["end"][0] - trace.steps["start"][0] == 15 * MS


def test_a_rank_that_leaves_fails_the_others_instead_of_hanging_them():
    ranks = Ranks(2)
    device = EmulatedAccelerator(FAST, exchange=ranks.member(0))
    device.submit(BATCH)
    ranks.member(1).leave()
    with pytest.raises(RuntimeError, match="could not take a batch") as raised:
        device.finish()
    assert isinstance(raised.value.__cause__, StokerError)
    assert "rank 0 of 2: another rank left" in str(raised.value.__cause__)
    device.close()


def test_a_rank_that_never_comes_is_an_error_after_its_time():
    with pytest.raises(StokerError, match=r"within 0\.05 s"):
        Ranks(2, timeout_s=0.05).member(1).last(5)


PROCESS = """
import json, sys
import torch, torch.distributed as dist
from dataclasses import replace
from tests.benchmarks.test_exchange import BATCH, FAST
from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.exchange import GlooExchange
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
device = EmulatedAccelerator(replace(FAST, step_s=0.01 + 0.02 * rank), exchange=GlooExchange())
for _ in range(6):
    device.submit(BATCH)
trace = device.finish()
device.close()
late = trace.spans[trace.spans["cause"] == "straggler"]
print(json.dumps({"title": device.title, "ends": trace.steps["end"].tolist(),
                  "waits": (late["stop"] - late["start"]).tolist()}))
"""


@pytest.mark.slow
def test_ranks_that_are_processes_end_their_steps_together_by_gloo(tmp_path, repository: Path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meeting")],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    fast, slow = (json.loads(process.communicate(timeout=120)[0]) for process in processes)
    assert fast["ends"] == slow["ends"]
    assert len(fast["ends"]) == 6
    assert fast["waits"][1:] == [20 * MS] * 5
    assert fast["title"] == "emulated(2 ranks of H100 1B seq 512)"
