"""The demo runs on one's own text, again, and says where to look next."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.demo import fit, tokens_folder
from shards.errors import StokerError


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts
    }


@pytest.mark.slow
def test_the_demo_runs_twice_and_the_second_time_redoes_nothing(made, tmp_path):
    arguments = ("--input", *made.files, "--tokenizer", made.tokenizer, "--output", str(tmp_path))
    first = run_demo(*arguments)
    assert first.returncode == 0, first.stderr
    assert "Stoker starved" in first.stdout
    assert "report.html" in first.stdout
    tokens = next(tmp_path.glob("tokens-*"))
    before = contents(tokens)
    second = run_demo(*arguments)
    assert second.returncode == 0, second.stderr
    assert "made by an earlier run" in second.stdout
    assert contents(tokens) == before
    assert (tmp_path / "report.json").exists()


def test_input_that_is_not_there_is_one_line(tmp_path):
    done = run_demo("--input", str(tmp_path / "none.parquet"), "--tokenizer", "x")
    assert done.returncode == 1
    assert "none.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_choice_of_text_and_tokenizer_has_its_own_folder():
    choices = [((), None), (("a",), None), (("a",), "t"), (("b",), "t"), ((), "t")]
    assert len({tokens_folder(*choice) for choice in choices}) == len(choices)
    assert tokens_folder((), None) == "tokens"


@pytest.mark.parametrize("tokens", [200, 5_000, 300_000, 2_000_000, 10**9])
def test_batches_shrink_with_the_text_so_that_an_epoch_has_some(tokens):
    batch_size, seq_len = fit(tokens, 256)
    assert 1 <= batch_size <= 256
    assert 16 <= seq_len <= 1024
    assert tokens // seq_len // batch_size >= 8
    assert fit(10**9, 256) == (256, 1024)


def test_hardly_any_text_is_refused():
    with pytest.raises(StokerError, match="only 100 tokens"):
        fit(100, 256)
