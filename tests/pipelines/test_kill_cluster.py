"""On a cluster: a node dies, a submitted job is stopped; the dataset is the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.lease import LEASE, read_lease
from shards.store import open_store
from tests.pipelines.interrupted import (
    UNITS,
    SlowJob,
    busy_workers,
    ended_well,
    receipts,
)
from tests.pipelines.processes import (
    RAY,
    REPOSITORY,
    Head,
    environment,
    process,
    start_head,
    start_node,
    temporary_home,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with temporary_home() as home:
        yield start_head(home, cpus=1)


def test_a_job_survives_the_death_of_one_of_two_nodes(
    head: Head, slow_job: SlowJob, tmp_path: Path
) -> None:
    doomed = start_node(head)
    out = tmp_path / "out"
    with process(slow_job.command(out), environment(head.home, RAY_ADDRESS=head.address)) as job:
        wait_until(
            lambda: receipts(out) >= 2 and bool(busy_workers(doomed.pid)),
            120,
            "a unit on the second node",
        )
        doomed.kill()
        assert receipts(out) < UNITS, "it was not killed in the middle"
        assert f"joined Ray at {head.address}" in ended_well(job)
    slow_job.assert_whole(out)


def test_a_stopped_submitted_job_is_submitted_again_and_completes(
    head: Head, slow_job: SlowJob, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    submit(head, slow_job, out, "first")
    wait_until(lambda: receipts(out) >= 3, 120, "the third receipt")
    jobs(head, "stop", "first")
    assert "was stopped" in jobs(head, "status", "first")
    done = receipts(out)
    assert 3 <= done < UNITS, "it was not stopped half-way"
    assert not (out / "manifest.json").exists()
    lease = read_lease(open_store(str(out)))
    assert lease is None or lease.is_gone()
    submit(head, slow_job, out, "second")
    wait_until(lambda: "succeeded" in jobs(head, "status", "second"), 200, "the end")
    assert f"{UNITS}, {done} of them done before" in jobs(head, "logs", "second")
    assert not (out / LEASE).exists()
    slow_job.assert_whole(out)


def submit(head: Head, job: SlowJob, output: Path, name: str) -> None:
    working_dir = output.parent / "working-dir"
    if not working_dir.exists():
        working_dir.mkdir()
        for room in ("pipelines", "shards"):
            (working_dir / room).symlink_to(REPOSITORY / room)
    command = ["python", "pipelines/tokenize.py", *job.arguments, "--output", str(output)]
    more = ["--submission-id", name, "--no-wait", "--working-dir", str(working_dir)]
    jobs(head, "submit", *more, "--", *command)


def jobs(head: Head, verb: str, *arguments: str) -> str:
    command = [RAY, "job", verb, "--address", head.dashboard, *arguments]
    env = environment(head.home, RAY_AUTH_MODE="token")
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
