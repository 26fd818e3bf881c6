"""The job starts in every way a person will try, with token authentication on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shards.dataset import open_dataset
from tests.pipelines.processes import (
    RAY,
    REPOSITORY,
    SCRIPT,
    Head,
    environment,
    free_port,
    start_head,
    temporary_home,
)
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with temporary_home() as home:
        (home / "t.json").write_text(blob(pair_tokenizer(merged="Ġdocument")))
        (home / "in.txt").write_text("one document\nanother document\n")
        yield start_head(home)


def arguments(head: Head) -> list[str]:
    what = ["--input", f"{head.home}/in.txt", "--text-split", "line"]
    return [*what, "--tokenizer", f"{head.home}/t.json", "--end-token", "<|end|>"]


def start(
    head: Head,
    command: list[str],
    output: Path,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments(head), "--output", str(output)],
        env=environment(head.home) | dict(env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def assert_done(done: subprocess.CompletedProcess[str], output: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_dataset(str(output)).manifest.counts.documents == 2
    assert "holds 2 documents" in done.stdout


@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        ([sys.executable, "pipelines/tokenize.py"], REPOSITORY),
        ([sys.executable, "-m", "pipelines.tokenize"], REPOSITORY),
        ([sys.executable, SCRIPT], Path("/")),
        ([sys.executable, "tokenize.py"], REPOSITORY / "pipelines"),
    ],
    ids=["script", "module", "script from elsewhere", "script from its folder"],
)
@pytest.mark.parametrize("how", ["found on the machine", "named by RAY_ADDRESS"])
def test_a_script_or_module_joins_the_cluster(
    how: str, command: list[str], cwd: Path, head: Head, tmp_path: Path
) -> None:
    more = {"RAY_ADDRESS": head.address} if "named" in how else {}
    done = start(head, command, tmp_path / "out", cwd, env=more)
    assert_done(done, tmp_path / "out")
    assert f"joined Ray at {head.address}" in done.stdout


@pytest.mark.parametrize(
    "entry", [["python", "pipelines/tokenize.py"], ["pipelines/tokenize.py"]], ids=" ".join
)
def test_a_submitted_job_runs_from_its_own_copy(
    entry: list[str], head: Head, tmp_path: Path
) -> None:
    """The copy is what counts: the working folder has the sources and nothing else."""
    copy = tmp_path / "copy"
    for room in ("pipelines", "shards"):
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("*.pyc"))
    submit = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *entry]
    done = start(head, submit, tmp_path / "out", copy, {"RAY_AUTH_MODE": "token"})
    assert_done(done, tmp_path / "out")
    assert "succeeded" in done.stdout
    assert f"joined Ray at {head.address}" in done.stdout


@pytest.mark.parametrize("way", ["submitted with it", "PYTHONPATH, joining", "PYTHONPATH, alone"])
def test_a_transform_of_ones_own_reaches_the_workers(way: str, head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "own.py").write_text("def first(table):\n    return table.slice(0, 1)\n")
    command = [sys.executable, SCRIPT, "--transform", "own:first"]
    with temporary_home() as home:
        more = {"PYTHONPATH": str(folder)}
        if way == "submitted with it":
            for room in ("pipelines", "shards"):
                shutil.copytree(REPOSITORY / room, folder / room)
            submit = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", "."]
            command = [*submit, "--", "pipelines/tokenize.py", *command[2:]]
            more = {"RAY_AUTH_MODE": "token"}
        elif way == "PYTHONPATH, alone":
            more |= {"HOME": str(home), "RAY_TMPDIR": str(home)}
        done = start(head, command, tmp_path / "out", folder, more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("Ray started here" if "alone" in way else "joined Ray") in done.stdout
    manifest = open_dataset(str(tmp_path / "out")).manifest
    assert manifest.counts.transform_in == 2
    assert manifest.counts.documents == 1


@pytest.mark.parametrize("mode", [{}, {"RAY_AUTH_MODE": "token"}], ids=["unset", "token"])
def test_a_missing_token_is_one_clear_line(
    mode: dict[str, str], head: Head, tmp_path: Path
) -> None:
    more = {"RAY_ADDRESS": head.address, "HOME": str(tmp_path), **mode}
    done = start(head, [sys.executable, SCRIPT], tmp_path / "out", env=more)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"no token: put the cluster's .* into RAY_AUTH_TOKEN", line)
    assert "Traceback" not in done.stderr


def test_a_token_in_the_environment_is_enough(head: Head, tmp_path: Path) -> None:
    token = (head.home / ".ray" / "auth_token").read_text().strip()
    more = {"RAY_ADDRESS": head.address, "HOME": str(tmp_path), "RAY_AUTH_TOKEN": token}
    assert_done(start(head, [sys.executable, SCRIPT], tmp_path / "out", env=more), tmp_path / "out")


def test_a_wrong_token_says_so(head: Head, tmp_path: Path) -> None:
    more = {"RAY_ADDRESS": head.address, "RAY_AUTH_TOKEN": "0" * 64}
    done = start(head, [sys.executable, SCRIPT], tmp_path / "out", env=more)
    assert done.returncode == 1
    assert "did not let this job in" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_nobody_answers_at_is_an_error_within_seconds(
    head: Head, tmp_path: Path
) -> None:
    more = {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
    done = start(head, [sys.executable, SCRIPT], tmp_path / "out", env=more)
    assert done.returncode == 1
    assert "no Ray cluster answers at RAY_ADDRESS=" in done.stderr


def test_without_a_cluster_it_starts_ray_here_and_leaves_nothing_behind(
    head: Head, tmp_path: Path
) -> None:
    """The address file of a cluster that was killed is no cluster."""
    with temporary_home() as home:
        (home / "ray").mkdir()
        (home / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
        more = {"HOME": str(home), "RAY_TMPDIR": str(home)}
        done = start(head, [sys.executable, SCRIPT], tmp_path / "out", env=more)
        assert_done(done, tmp_path / "out")
        assert "Ray started here" in done.stdout
