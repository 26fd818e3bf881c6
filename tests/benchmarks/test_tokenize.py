"""The tokenize bench: its text, its table, and one tiny real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import contest
from benchmarks.contest import PEERS, Run, count_ids, expected, missing, run_peer
from benchmarks.standings import LIMIT, STOKER, Standing, Standings
from benchmarks.tokenize import cut, first_files, main, make_text
from benchmarks.watch import watch
from benchmarks.where import REST, STEPS, shares
from benchmarks.where import table as where_table
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError


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


# --- the parts of the text ---------------------------------------------------------------------


def write(path: Path, texts: list[str]) -> str:
    pq.write_table(pa.table({"text": texts}), path)
    return str(path)


def test_the_peers_text_is_cut_into_a_file_of_equal_size_for_each_worker(tmp_path):
    texts = [f"{n:09d} " for n in range(1000)]
    files = [write(tmp_path / f"{i}.parquet", texts[500 * i : 500 * (i + 1)]) for i in (0, 1)]
    made = cut(files, "text", 6_000, tmp_path, 3)
    parts = [pq.read_table(file)["text"].to_pylist() for file in made]
    assert [text for part in parts for text in part] == texts[:600]
    assert [len(part) for part in parts] == [200, 200, 200]


def test_the_first_files_hold_at_least_what_is_wanted_and_one_is_taken_in_any_case(tmp_path):
    files = [write(tmp_path / f"{i}.parquet", ["x" * 100]) for i in range(4)]
    assert first_files(files, "text", 150) == files[:2]
    assert first_files(files, "text", 200) == files[:2]
    assert first_files(files, "text", 0) == files[:1]


# --- the table ---------------------------------------------------------------------------------


def run(text_mb: float, startup_s: float, working_s: float, **more) -> Run:
    known = {"cpu_s": 3.0, "peak_rss": 300 << 20, "tokens": 1234, "equal": True}
    return Run(
        text_bytes=int(text_mb * 1e6), startup_s=startup_s, working_s=working_s, **known | more
    )


def report(steady: float) -> dict[str, object]:
    slots = {"on_cpu": 0.75, "waiting": 0.05, "no_unit": 0.2}
    return {"steady_text_mb_per_s": steady, "slots": slots}


def standings(**changes) -> Standings:
    all_of_it = [run(200, 6, working, report=report(180)) for working in (2.0, 4.0, 1.9)]
    chosen = {
        LIMIT: [run(200, 1, 1)],
        STOKER: all_of_it,
        "  a 4th of the text": [run(50, 6, 1)],
        "datatrove": [run(20, 5, 10)],
    }
    return Standings(tuple(Standing(name, runs) for name, runs in (chosen | changes).items()))


def test_the_table_keeps_start_up_and_work_apart_and_shows_medians():
    _, limit, stoker, _, peer, *_ = standings().table().splitlines()
    assert limit.split()[-8:] == ["200", "1.0", "200.0", "1.000", "100.0", "15.0", "300", "equal"]
    assert stoker.split()[-8:] == ["200", "6.0", "100.0", "0.500", "25.0", "15.0", "300", "equal"]
    assert peer.split()[:6] == ["datatrove", "20", "5.0", "2.0", "0.010", "1.3"]


def test_the_steady_state_is_told_by_the_jobs_report_and_by_the_difference_of_two_sizes():
    # 150 MB more in 8 - 7 seconds more.
    assert standings().by_difference() == pytest.approx(150)
    assert standings().steady() == pytest.approx(180)
    text = standings().table()
    assert "150.0 MB/s, 0.75 of limit, by the difference" in text
    assert "180.0 MB/s, 0.90 of limit, by its own report" in text
    assert "20% Ray's or idle" in text


def test_the_share_of_cpu_time_is_told_apart_since_a_busy_machine_does_not_change_it():
    limit, stoker = [run(200, 1, 1, work_cpu_s=1.2)], [run(200, 6, 9, work_cpu_s=1.6)]
    table = standings(**{LIMIT: limit, STOKER: stoker}).table()
    assert "8.0 CPU-s a GB in Stoker's units, 6.0 in the limit's: 0.75 of limit" in table


def test_the_ratio_is_to_the_best_peer():
    slower = {"litData optimize": [run(20, 1, 20)]}
    assert "Stoker / datatrove: 50x while working, 90x at steady state, 19x with start-up" in (
        standings(**slower).table()
    )


def test_a_row_with_other_tokens_says_so():
    table = standings(datatrove=[run(20, 5, 10, equal=False, tokens=99_999)]).table()
    assert "DIFFERENT: 99,999" in table


def test_a_peer_that_fails_or_is_missing_has_a_row_with_the_reason_and_the_others_go_on():
    def fails() -> Run:
        raise StokerError("run_litdata.py ended with exit code 1: no such module")

    one = Standing("litData optimize")
    one.take(fails)
    all_of_them = Standings((*standings().all, one))
    assert "litData optimize         run_litdata.py ended with exit code 1" in all_of_them.table()
    assert all_of_them.content()["contenders"][-1]["runs"] == []
    assert json.dumps(all_of_them.content())
    with pytest.raises(StokerError):
        Standing(STOKER).take(fails)


def test_a_peer_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "VENVS", tmp_path)
    assert missing("litdata") == "not installed: make peers"
    (tmp_path / "litdata.failed").write_text("no matching distribution\n")
    assert missing("litdata") == "could not be installed: no matching distribution"
    assert missing("ray_data") is None


def test_every_peer_has_a_script_and_pins(repository):
    folder = repository / "benchmarks" / "peers"
    assert {path.stem for path in folder.glob("run_*.py")} == {f"run_{peer}" for peer in PEERS}
    assert {path.stem for path in folder.glob("*.txt")} == set(PEERS) - {"ray_data"}
    for pins in folder.glob("*.txt"):
        lines = [line for line in pins.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines), pins


# --- watching ----------------------------------------------------------------------------------

BUSY = """
import multiprocessing, time
def work(seconds):
    held = bytearray(80 << 20)
    until = time.process_time() + seconds
    while time.process_time() < until: pass
    return len(held)
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(work, [0.7, 0.7])
    print("so"); print('{"tokens": 7}')
"""


def test_watching_counts_cpu_and_memory_of_a_commands_children(tmp_path):
    (tmp_path / "busy.py").write_text(BUSY)
    seen = watch([sys.executable, str(tmp_path / "busy.py")])
    assert seen.result() == {"tokens": 7}
    assert seen.cpu_s > 1.2
    assert seen.peak_rss > 80 << 20


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise SystemExit('it broke')", "exit code 1: it broke"), ("print('x')", "no result")],
)
def test_a_command_that_fails_is_told_in_its_own_words(code, words):
    with pytest.raises(StokerError, match=words):
        watch([sys.executable, "-c", code]).result()


# --- where the time goes -----------------------------------------------------------------------


def test_a_sample_counts_for_the_innermost_step_it_is_in():
    stacks = [
        "main (where.py:1);run_unit (pipelines/write.py:9);encode (pipelines/fast.py:7) 50",
        "run_unit (pipelines/write.py:9);read (pipelines/read_parquet.py:3);x (pyarrow/p.py:1) 30",
        "add (pipelines/fill.py:9);frame (pipelines/encode.py:3) 10",
        "thread;of (shards/format.py:66);xxh3 (shards/format.py:5) 5",
        "<module> (where.py:1);import (importlib:9) 60",
        "main (where.py:1);choose_engine (pipelines/choose.py:1);encode (pipelines/fast.py:7) 40",
        "x (pipelines/fast.py:7);_renew (pipelines/fast.py:9);_build (pipelines/fast.py:1) 5",
    ]
    found = shares(stacks)
    assert found == {
        REST: 1.0,
        "encode: gigatoken": 0.5,
        "read": 0.3,
        "begin and end tokens": 0.1,
        "checksums": 0.05,
        "rebuild gigatoken's caches": 0.05,
    }
    assert "encode: gigatoken                  50.0%" in where_table(found, 100_000_000)


def test_every_step_names_code_that_is_there(repository):
    for _, file, function in STEPS:
        paths = list(repository.glob(f"{file}*" if not file.endswith(".py") else file))
        assert paths, file
        assert any(f"def {function}" in path.read_text() for path in paths), (file, function)


# --- real runs ---------------------------------------------------------------------------------


def test_the_limit_counts_what_the_tokenizer_itself_counts(made):
    loaded = load_tokenizer(made.tokenizer)
    texts = [text for file in made.files for text in pq.read_table(file)["text"].to_pylist()]
    from tokenizers import Tokenizer

    reference = Tokenizer.from_str(loaded.blob)
    reference.encode_special_tokens = True
    ids = [one.ids for one in reference.encode_batch_fast(texts, add_special_tokens=False)]
    assert loaded.end_id is not None
    wanted = sum(map(len, ids)) + len(ids), sum(map(sum, ids)) + len(ids) * loaded.end_id
    assert expected(made.files, "text", made.tokenizer) == wanted
    assert count_ids(made.tokens) == wanted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_runs_limit_stoker_both_engines_and_a_peer(made, tmp_path, capsys):
    arguments = ["--input", *made.files, "--tokenizer", made.tokenizer, "--peers", "ray_data"]
    small = ["--peer-bytes", "200k", "--rounds", "1", "--json", str(tmp_path / "all.json")]
    assert main([*arguments, *small]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "all.json").read_text())
    names = [one["name"] for one in content["contenders"]]
    assert names == [LIMIT, STOKER, "a 4th of the text", "Stoker, slow engine", PEERS["ray_data"]]
    for one in content["contenders"]:
        assert one["failed"] == ""
        assert [run["equal"] for run in one["runs"]] == [True]
        assert one["runs"][0]["cpu_s"] > 0.1
        assert one["name"] in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_profile_says_where_a_units_time_goes(made, capsys):
    arguments = ["--input", *made.files, "--tokenizer", made.tokenizer, "--peer-bytes", "200k"]
    assert main([*arguments, "--profile"]) == 0
    printed = capsys.readouterr().out
    # So little text is seen in few places by 100 looks a second: which ones is chance.
    assert "CPU time of a unit" in printed
    assert "together                            100%" in printed


INSTALLED = [peer for peer in PEERS if peer != "ray_data" and missing(peer) is None]

# Peers are 5 GB that only `make peers` brings: where there are none, there is nothing to test.
if INSTALLED:

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("peer", INSTALLED)
    def test_a_peer_that_is_installed_makes_the_same_tokens(peer, made, tmp_path):
        files = cut(made.files, "text", 200_000, tmp_path, 2)
        text = make_text(files, "text", made.tokenizer)
        assert run_peer(peer, text, workers=2).equal
