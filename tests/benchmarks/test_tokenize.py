"""The tokenize bench counts the text it was given, and its name hides nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.peer import Run
from benchmarks.tokenize import JOB, LIMIT, PEER, copies, main, run_limit, table
from pipelines.tokenizer import load_tokenizer


@pytest.mark.parametrize("how", [["benchmarks/tokenize.py"], ["-m", "benchmarks.tokenize"]])
def test_it_starts_by_path_and_by_name_though_it_is_called_tokenize(repository, how, tmp_path):
    # By path Python puts benchmarks/ first, where this file hides the standard library's tokenize.
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, *how, "--help"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "--text-bytes" in done.stdout


def test_the_limit_reads_every_byte_of_text_once(made):
    text_bytes = sum(
        len(text.as_py().encode()) for f in made.files for text in pq.read_table(f).column("text")
    )
    run = run_limit(made.files, "text", load_tokenizer(made.tokenizer).blob, processes=2)
    assert run.text_bytes == text_bytes
    assert run.steady_s > 0
    assert run.startup_s > 0


def test_copies_reach_the_wanted_bytes(made, tmp_path):
    files = [Path(f) for f in made.files]
    made_copies = copies(files, tmp_path, wanted_bytes=2_500, text_bytes=1_000)
    assert len(made_copies) == 3 * len(files)
    assert all(Path(f).stat().st_size for f in made_copies)


def test_the_table_keeps_start_up_and_work_apart():
    runs = {
        LIMIT: [Run(200_000_000, 1.0, 1.0)],
        JOB: [Run(200_000_000, 6.0, 2.0), Run(200_000_000, 6.0, 4.0), Run(200_000_000, 6.0, 1.9)],
        PEER: [Run(20_000_000, 5.0, 10.0)],
    }
    _, limit, job, peer, ratio = table(runs).splitlines()
    assert limit.split()[-5:] == ["200", "1.0", "200.0", "1.000", "100.0"]
    assert job.split()[-5:] == ["200", "6.0", "100.0", "0.500", "25.0"]
    assert peer.split()[-5:] == ["20", "5.0", "2.0", "0.010", "1.3"]
    assert ratio.endswith("50x")


@pytest.mark.slow
def test_the_command_runs_limit_job_and_peer(made, tmp_path, capsys):
    arguments = ["--input", *made.files, "--tokenizer", made.tokenizer]
    small = ["--text-bytes", "1M", "--rounds", "1", "--peer-files", "1", "--demo", str(tmp_path)]
    assert main([*arguments, *small]) == 0
    printed = capsys.readouterr().out
    assert LIMIT in printed
    assert JOB in printed
    assert PEER in printed
