"""The command measures, explains, writes its report, and says what is wrong in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.starvation.command import main
from benchmarks.starvation.options import Options
from benchmarks.starvation.run import run
from shards.errors import StokerError
from shards.store import open_store

QUICK = [
    *("--seq-len", "128", "--batch-size", "8", "--time-scale", "0.2"),
    *("--steps", "30", "--warmup", "4", "--seconds", "5", "--seeds", "2"),
]


@pytest.fixture(scope="module")
def report(made, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("report")
    arguments = ["--data", made.tokens, "--text", *made.files, "--output", str(folder)]
    assert main([*arguments, *QUICK, "--workers", "1"]) == 0
    return folder


def test_it_compares_three_contenders_and_explains_all_of_their_time(report):
    document = json.loads((report / "report.json").read_text())
    assert [r["name"] for r in document["results"]] == ["resident", "stoker", "inline"]
    assert document["verdict"].startswith(
        "emulated(H100 124M seq 1024, time x 0.2): Stoker starved"
    )
    for result in document["results"]:
        figures = result["figures"]
        assert sum(figures["shares"].values()) == pytest.approx(1)
        assert figures["steps"] == len(figures["gaps_ms"]) <= 30
        assert sum(result["causes"].values()) == result["window_ns"]
        assert result["seeds"] == len(result["runs"]) == 2
        assert figures["padding_efficiency"] == 1
    resident, stoker, inline = document["results"]
    assert resident["figures"]["stall_rate"] < 0.01
    assert resident["headroom"] is None
    assert stoker["headroom"] > inline["headroom"] > 0
    assert set(stoker["figures"]["shares"]) >= {"fetch", "assemble", "queue"}
    told = ("fetch", "prep", "workers", "assemble", "queue")
    assert sum(inline["causes"][cause] for cause in told) > inline["causes"]["input"]
    assert inline["cannot_see"] == stoker["cannot_see"] == []
    assert document["data"]["tokens"].replace(",", "").isdigit()


def test_what_a_loader_needs_and_how_long_it_takes_to_open_again_are_in_the_report(report):
    resident, stoker, inline = json.loads((report / "report.json").read_text())["results"]
    assert stoker["resume_gap_ms"] > 0
    assert inline["resume_gap_ms"] is resident["resume_gap_ms"] is None
    assert inline["cores_to_feed"] > stoker["cores_to_feed"] > 0
    assert resident["cores_to_feed"] is None
    assert stoker["figures"]["first_batch_s"] > 0


def test_the_ceiling_gets_no_advice(report):
    resident, _, _ = json.loads((report / "report.json").read_text())["results"]
    assert resident["bounded"] is False
    assert resident["advice"] == []


def test_raw_steps_lie_beside_it_and_sum_to_what_the_report_says(report):
    document = json.loads((report / "report.json").read_text())
    rows = pq.read_table(report / "steps.parquet")
    for result in document["results"]:
        mine = rows.filter(pc.equal(rows["contender"], result["name"]))
        assert len(mine) > result["figures"]["steps"] * result["seeds"] > 0
        for cause, nanoseconds in result["causes"].items():
            assert pc.sum(mine[f"{cause}_ns"]).as_py() == nanoseconds


def test_a_second_report_is_compared_with_the_first(made, report, tmp_path, capsys):
    older = report / "report.json"
    arguments = ["--data", made.tokens, "--output", str(tmp_path), "--compare", str(older)]
    assert main([*arguments, *QUICK, "--price", "12.5"]) == 0
    said = capsys.readouterr().out
    assert "compared with the older report: " in said
    assert "not the same: data text:" in said
    page = (tmp_path / "report.md").read_text()
    assert "inline tokenization: only in the older report." in page
    assert json.loads((tmp_path / "report.json").read_text())["price"]["usd_per_hour"] == 12.5


def test_a_wrong_older_report_is_an_error_before_anything_is_measured(made, tmp_path, capsys):
    older = tmp_path / "old.json"
    older.write_text('{"version": 1}')
    arguments = ["--data", made.tokens, "--output", str(tmp_path / "new"), "--compare", str(older)]
    assert main([*arguments, *QUICK]) == 1
    assert "a report of version 1, not 2: measure it again" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_page_lies_beside_it(report):
    page = (report / "report.html").read_text()
    assert "<!doctype html>" in page
    assert "emulated(H100 124M seq 1024, time x 0.2)" in page


def test_without_the_text_inline_tokenization_is_left_out_and_the_report_says_why(made, tmp_path):
    report = run(
        Options(
            data=made.tokens,
            output=tmp_path,
            seq_len=128,
            batch_size=8,
            time_scale=0.05,
            steps=5,
            seeds=1,
            warmup=1,
        )
    )
    assert [r.name for r in report.results] == ["resident", "stoker"]
    assert "--text" in report.left_out["inline tokenization"]


SMALL: dict[str, Any] = {
    **{"seq_len": 128, "batch_size": 8, "time_scale": 0.05},
    **{"steps": 5, "seeds": 1, "warmup": 1},
}


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_folder_that_cant_be_made_is_an_error_before_anything_is_measured(made, tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(StokerError, match=f"--output .*{place}: .*file is no folder"):
        run(Options(data=made.tokens, output=tmp_path / place, **SMALL))


def test_a_loader_that_fails_at_once_costs_no_measurement(made, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.starvation.run.try_out", lambda *_: pytest.fail("measured"))
    with pytest.raises(StokerError, match="failed: RuntimeError: no disk"):
        run(Options(data=made.tokens, output=tmp_path, loader=f"{__name__}:broken", **SMALL))


def test_a_loader_that_fails_later_is_left_out_with_what_it_said(made, tmp_path):
    options = Options(data=made.tokens, output=tmp_path, loader=f"{__name__}:breaking", **SMALL)
    report = run(options)
    assert [r.name for r in report.results] == ["resident", "stoker"]
    said = report.left_out[f"{__name__}:breaking"]
    assert "failed: RuntimeError: no disk" in said
    assert (tmp_path / "report.json").exists()


def broken() -> list[dict[str, torch.Tensor]]:
    raise RuntimeError("no disk")


def breaking() -> Iterator[dict[str, torch.Tensor]]:
    ids = torch.ones(8, 128, dtype=torch.int64)
    for _ in range(3):
        yield {"input_ids": ids, "labels": ids}
    raise RuntimeError("no disk")


def test_the_data_may_lie_on_s3(made, s3, tmp_path):
    bucket = s3.bucket("starvation")
    here, there = open_store(made.tokens), open_store(f"{bucket}/tokens")
    for entry in here.list():
        there.write(entry.key, here.read(entry.key))
    report = run(
        Options(
            data=there.uri,
            output=tmp_path,
            seq_len=128,
            batch_size=8,
            time_scale=0.05,
            steps=20,
            seeds=1,
            warmup=2,
            ladder=True,
        )
    )
    assert report.results[1].figures.steps == 20
    assert report.ladder is not None
    assert [level.level for level in report.ladder.levels] == ["L0", "L1", "L2", "L3", "L4"]
    assert report.data["dataset"] == there.uri


def test_errors_are_one_line_and_exit_code_1(made, tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, "-m", "benchmarks.starvation", "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_exit_code_2():
    with pytest.raises(SystemExit) as stopped:
        main(["--data", "x", "--profile", "tpu"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "tpu"}, "no profile 'tpu': choose one of h100-124m"),
        ({"steps": 0}, "steps is 0"),
        ({"cards": 0}, "cards is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"time_scale": 0.0}, "time_scale is 0.0"),
        ({"workers": -1}, "workers is -1"),
        ({"price": 0.0}, "price is 0.0"),
    ],
)
def test_options_are_checked_before_anything_is_read(wrong, message, tmp_path):
    with pytest.raises(StokerError, match=message):
        Options(data="x", output=tmp_path, **wrong)


def test_text_without_such_a_column_is_an_error_that_lists_the_columns(made, tmp_path):
    options = Options(
        data=made.tokens,
        output=tmp_path,
        text=made.files,
        text_column="body",
        seq_len=128,
        batch_size=8,
        workers=1,
        steps=1,
        warmup=1,
        time_scale=0.01,
    )
    with pytest.raises(StokerError, match="no column 'body': it has text, path"):
        run(options)
