"""Killed or stopped half-way and started again: the same bytes as if nothing had happened."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shards.lease import LEASE
from tests.pipelines.interrupted import (
    UNITS,
    SlowJob,
    busy_workers,
    ended_well,
    receipts,
)
from tests.pipelines.processes import (
    SCRIPT,
    environment,
    kill_below,
    kill_tree,
    process,
    temporary_home,
    wait_until,
)
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_job_stopped_half_way_and_started_again_gives_the_same_bytes(
    how: str, slow_job: SlowJob, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with process(slow_job.command(out), environment(home)) as job:
        wait_until(lambda: receipts(out) >= 3 or job.poll() is not None, 120, "the third receipt")
        if how == "SIGKILL":
            kill_tree(job.pid)
            kill_below(home)
            job.wait(20)
        else:
            number = signal.Signals[how]
            job.send_signal(number)
            _, err = job.communicate(timeout=30)
            assert job.returncode == 128 + number
            assert f"stopped: {how} came" in err
            assert "Traceback" not in err
    done = receipts(out)
    assert 3 <= done < UNITS, "it was not stopped half-way"
    assert not (out / "manifest.json").exists()
    assert (out / LEASE).exists() == (how == "SIGKILL")
    again = slow_job.run_to_end(out, home)
    assert f"{UNITS}, {done} of them done before" in again
    assert ("it has ended" in again) == (how == "SIGKILL")
    slow_job.assert_whole(out)


def kill_a_busy_worker(driver: int) -> bool:
    for worker in busy_workers(driver):
        with suppress(psutil.NoSuchProcess):
            worker.kill()
            return True
    return False


def test_a_worker_killed_in_the_middle_of_a_unit_changes_nothing(
    slow_job: SlowJob, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with process(slow_job.command(out), environment(home)) as job:
        wait_until(lambda: receipts(out) >= 2, 120, "the second receipt")
        wait_until(lambda: kill_a_busy_worker(job.pid), 30, "a worker with a unit")
        assert receipts(out) < UNITS, "it was not killed in the middle"
        ended_well(job)
    slow_job.assert_whole(out)


def test_of_two_drivers_started_at_once_one_works_and_one_says_so_and_ends(
    slow_job: SlowJob, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with (
        temporary_home() as other_home,
        process(slow_job.command(out), environment(home)) as one,
        process(slow_job.command(out), environment(other_home)) as other,
    ):
        jobs = [one, other]
        wait_until(lambda: any(job.poll() is not None for job in jobs), 120, "the end of one")
        [ended] = [job for job in jobs if job.poll() is not None]
        [left] = [job for job in jobs if job is not ended]
        stdout, err = ended.communicate()
        assert ended.returncode == 1, stdout + err
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "another job" in line
        assert f"pid {left.pid} on " in line
        assert "Traceback" not in err
        ended_well(left)
    slow_job.assert_whole(out)


def test_a_suspended_driver_finds_its_lease_taken_and_ends_while_the_other_finishes(
    slow_job: SlowJob, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quick = {"STOKER_LEASE_STALE_S": "4"}
    with process(slow_job.command(out), environment(home, **quick)) as suspended:
        wait_until(lambda: receipts(out) >= 3, 120, "the third receipt")
        suspended.send_signal(signal.SIGSTOP)
        assert not (out / "manifest.json").exists(), "it was not suspended half-way"
        with temporary_home() as other_home:
            said = slow_job.run_to_end(out, other_home, **quick)
        assert f"taking over from pid {suspended.pid} on " in said
        assert "nothing was heard of it for 4 s" in said
        slow_job.assert_whole(out)
        suspended.send_signal(signal.SIGCONT)
        _, err = suspended.communicate(timeout=60)
        assert suspended.returncode == 1
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "the lease of this job is gone" in line
        assert "Traceback" not in err
    slow_job.assert_whole(out)


def test_a_unit_whose_worker_dies_each_time_ends_the_job_in_words(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, sys\n"
        "def transform(table):\n"
        "    if sys.argv[0].endswith('default_worker.py'):\n"
        "        os._exit(9)\n"
        "    return table\n"
    )
    (tmp_path / "t.json").write_text(blob(pair_tokenizer(merged="Ġdocument")))
    (tmp_path / "in.jsonl").write_text('{"text": "one document"}')
    command = [sys.executable, SCRIPT, "--input", str(tmp_path / "in.jsonl"), "--output"]
    command += [str(tmp_path / "out"), "--tokenizer", str(tmp_path / "t.json")]
    command += ["--end-token", "<|end|>", "--transform", "deadly:transform"]
    with process(command, environment(home, PYTHONPATH=str(tmp_path))) as job:
        out, err = job.communicate(timeout=250)
    assert job.returncode == 1, out + err
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "in.jsonl) was begun 10 times and its worker died each time" in line
    assert not (tmp_path / "out" / "manifest.json").exists()
