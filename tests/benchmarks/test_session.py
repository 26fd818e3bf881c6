"""One command measures all that a GPU is wanted for; here in small, on the CPU, and without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.starvation.checks import calibration
from benchmarks.starvation.here import tokenize_here
from benchmarks.starvation.session import Session, main, name_of
from loaders import TokenDataset

# As where it is not installed: whatever asks for it is told that there is none.
WITHOUT_RAY = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "gigatoken", "awkward"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoRay())
"""
SESSION = """
from benchmarks.starvation.session import main
code = main(sys.argv[1:])
assert "ray" not in sys.modules
sys.exit(code)
"""
MONITOR = """
import numpy, torch
from benchmarks.starvation import StarvationMonitor
from loaders import DataLoader, TokenDataset
from pathlib import Path
from benchmarks.synthetic import make_tokens
uri = make_tokens(Path(sys.argv[1]), 4096)
with StarvationMonitor(DataLoader(TokenDataset(uri, 16), 4, shuffle=True)) as monitor:
    for batch in monitor:
        pass
assert monitor.report().results[0].figures.steps > 10
assert "ray" not in sys.modules
"""


def run(program: str, *arguments: str, repository: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY + program, *arguments],
        cwd=repository,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loader_and_monitor_run_where_ray_is_not_installed(tmp_path, repository: Path):
    run(MONITOR, str(tmp_path / "tokens"), repository=repository)


@pytest.mark.slow
def test_the_session_runs_without_ray_and_leaves_a_report_and_a_calibration(
    tmp_path, repository: Path
):
    before = calibration.read()
    asked = [
        *("--output", str(tmp_path), "--models", "tiny", "--minutes", "1", "--steps", "8"),
        *("--text-bytes", "600000", "--workers", "0", "1", "--latency", "0", "20"),
        *("--batch-size", "2", "--seq-len", "16"),
    ]
    said = run(SESSION, *asked, repository=repository)
    (folder,) = tmp_path.iterdir()
    assert folder.name == name_of("CPU, Llama tiny, float32")
    assert str(folder / "report.md") in said
    document = json.loads((folder / "report.json").read_text())
    assert document["accelerator"] == "CPU, Llama tiny, float32"
    names = [row["name"] for row in document["results"]]
    assert names == [
        *("resident", "stoker", "stoker-s3-0ms", "stoker-s3-20ms"),
        *("padded", "inline-0", "inline-1"),
    ]
    assert all(sum(r["causes"].values()) == r["window_ns"] for r in document["results"])
    (found,) = calibration.read(folder / "calibration.json")
    assert [pair.contender for pair in found.pairs] == names
    # What was seen on a CPU says nothing about an emulated GPU.
    assert calibration.read() == before


def test_the_tokens_are_those_that_the_job_makes(made, tmp_path):
    here = TokenDataset(tokenize_here(made.files, made.tokenizer, tmp_path / "here"), 64)
    there = TokenDataset(made.tokens, 64)
    assert len(here) == len(there) > 100
    for number in range(0, len(here), 50):
        assert torch.equal(here[number]["input_ids"], there[number]["input_ids"])


@pytest.mark.parametrize("minutes", [1, 20, 60])
def test_all_loops_together_stay_within_the_minutes(minutes, tmp_path):
    session = Session(output=tmp_path, minutes=minutes)
    contenders = 9
    left, used = float(minutes), 0.0
    for model in session.models:
        # A loop runs for twice its seconds at most.
        spent = sum(2 * each + 8 for each in session.seconds(left, model)) * contenders
        left -= spent / 60
        used += spent
    least = contenders * 2 * (2 + 8) * len(session.models)
    assert used <= max(60 * minutes + 1, least)


def test_a_model_that_needs_a_gpu_is_an_error_before_anything_is_made(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")
    assert main(["--output", str(tmp_path / "new")]) == 1
    assert "--model 125m needs a GPU" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
