"""Killed or stopped half-way and started again: the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shards.lease import LEASE
from shards.store import open_store
from shards.verify import verify
from tests.pipelines.processes import (
    SCRIPT,
    environment,
    kill_below,
    kill_tree,
    process,
    wait_until,
)
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

UNITS = 24


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stoker-", dir="/tmp"))
    yield folder
    kill_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A job of 24 units with the slow engine, so that there is a middle to be stopped in."""
    (tmp_path / "t.json").write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    text = "some words and numbers 0123 of a document " * 200
    lines = [json.dumps({"text": f"{i} {text}"}) for i in range(60 * UNITS)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    size = path.stat().st_size
    return [
        *(sys.executable, SCRIPT, "--input", str(path), "--tokenizer", str(tmp_path / "t.json")),
        *("--end-token", "<|end|>", "--engine", "tokenizers"),
        *("--unit-bytes", str(-(-size // UNITS))),
    ]


def run_to_end(command: list[str], output: Path, home: Path) -> str:
    with process([*command, "--output", str(output)], environment(home)) as job:
        out, err = job.communicate(timeout=200)
        assert job.returncode == 0, out + err
    return out + err


def content(output: Path) -> dict[str, bytes]:
    store = open_store(str(output))
    assert not store.exists(LEASE)
    skipped = ("logs/", "receipts/")
    return {e.key: store.read(e.key) for e in store.list() if not e.key.startswith(skipped)}


def receipts(output: Path) -> int:
    return len(list(output.glob("receipts/*/*.arrow")))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_job_stopped_half_way_and_started_again_gives_the_same_bytes(
    how: str, command: list[str], home: Path, tmp_path: Path
) -> None:
    run_to_end(command, tmp_path / "whole", home)
    out = tmp_path / "out"
    with process([*command, "--output", str(out)], environment(home)) as job:
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
    again = run_to_end(command, out, home)
    assert f"{UNITS}, {done} of them done before" in again
    assert ("its process has ended" in again) == (how == "SIGKILL")
    assert content(out) == content(tmp_path / "whole")
    verify(str(out))


def kill_a_busy_worker(driver: int) -> bool:
    for child in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::MapBatches" in " ".join(child.cmdline()):
                child.kill()
                return True
    return False


def test_a_worker_killed_in_the_middle_of_a_unit_changes_nothing(
    command: list[str], home: Path, tmp_path: Path
) -> None:
    run_to_end(command, tmp_path / "whole", home)
    out = tmp_path / "out"
    with process([*command, "--output", str(out)], environment(home)) as job:
        wait_until(lambda: receipts(out) >= 2, 120, "the second receipt")
        # Between two units a worker is called ray::IDLE.
        wait_until(lambda: kill_a_busy_worker(job.pid), 30, "a worker with a unit")
        assert receipts(out) < UNITS, "it was not killed in the middle"
        stdout, err = job.communicate(timeout=200)
        assert job.returncode == 0, stdout + err
    assert content(out) == content(tmp_path / "whole")
    verify(str(out))
