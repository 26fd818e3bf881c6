"""The command's end: an exit code and a line or two of words, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.tokenize import main
from shards.errors import StokerError
from tests.pipelines.processes import SCRIPT
from tests.servers import S3Server


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it ends with 1."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") <= 2
    return captured.err


def arguments(given: str, output: str = "out", tokenizer: str = "./none") -> list[str]:
    return ["--input", given, "--output", output, "--tokenizer", tokenizer]


def test_no_such_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.txt: no such file" in failure(arguments(f"{tmp_path}/nowhere.txt"), capsys)


def test_an_unknown_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").touch()
    assert "tokenizer ./none: no such folder" in failure(arguments(f"{tmp_path}/a.txt"), capsys)


def test_wrong_credentials_are_an_error_that_says_so(
    s3: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.bucket("pipelines-keys")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    said = failure(arguments("s3://pipelines-keys/x"), capsys)
    assert "s3://pipelines-keys" in said
    assert "credentials" in said


def test_an_endpoint_that_refuses_is_an_error_within_30_s(
    s3: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    started = time.monotonic()
    assert "refuses connections" in failure(arguments("s3://bucket/x"), capsys)
    assert time.monotonic() - started < 30


def test_a_person_who_wants_the_traceback_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_DEBUG", "1")
    with pytest.raises(StokerError):
        main(arguments("/nowhere"))


def test_the_script_is_executable_and_survives_its_own_name(tmp_path: Path) -> None:
    """Its folder, first on the path of a script, hides the standard library's tokenize."""
    assert os.access(SCRIPT, os.X_OK)
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    command = [sys.executable, SCRIPT, *arguments("a.txt", tokenizer="./empty")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "the folder holds no tokenizer" in done.stderr
    assert "Traceback" not in done.stderr
