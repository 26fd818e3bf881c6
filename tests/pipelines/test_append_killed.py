"""An append that is killed: the old generation stays whole, and the next run ends as if nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from shards.dataset import open_dataset
from shards.verify import verify
from tests.pipelines.interrupted import UNITS, SlowJob, content, ended_well, receipts
from tests.pipelines.processes import (
    SCRIPT,
    environment,
    kill_below,
    kill_tree,
    process,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def append_command(slow_job: SlowJob, output: Path, *inputs: str) -> list[str]:
    """The slow job's, with these inputs instead of its own where there are any."""
    arguments = list(slow_job.arguments)
    if inputs:
        arguments[arguments.index("--input") + 1] = inputs[0]
    return [sys.executable, SCRIPT, *arguments, "--output", str(output), "--append"]


def test_an_append_killed_half_way_and_started_again_gives_the_same_bytes(
    slow_job: SlowJob, home: Path, tmp_path: Path
) -> None:
    small, whole, out = tmp_path / "small.jsonl", tmp_path / "whole", tmp_path / "out"
    small.write_text("".join(json.dumps({"text": f"first {n}"}) + "\n" for n in range(50)))
    with process(append_command(slow_job, whole, str(small)), environment(home)) as job:
        ended_well(job)
    shutil.copytree(whole, out)
    with process(append_command(slow_job, whole), environment(home)) as job:
        ended_well(job)
    before, first = content(out), receipts(out)
    reader = open_dataset(str(out))
    with process(append_command(slow_job, out), environment(home)) as job:
        wait_until(lambda: receipts(out) >= first + 3, 200, "the third receipt of the append")
        kill_tree(job.pid)
        kill_below(home)
        job.wait(20)
    done = receipts(out) - first
    assert 3 <= done < UNITS, "it was not stopped half-way"
    verify(str(out))
    assert open_dataset(str(out)).id == reader.id
    with process(append_command(slow_job, out), environment(home)) as job:
        assert f"{done} of them done before" in ended_well(job)
    assert content(out) == content(whole)
    assert all(content(out)[key] == data for key, data in before.items() if "shards/" in key)
    verify(str(out))
    assert open_dataset(str(out)).manifest.plans[:1] == reader.manifest.plans
