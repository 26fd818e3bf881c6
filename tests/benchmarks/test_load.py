"""The load bench compares like with like, and prints what it measured."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import contest as tokenize_contest
from benchmarks.load import main, make_parser
from benchmarks.loading.contest import Effort, Field, compare_local, make_data
from benchmarks.loading.delay import delayed
from benchmarks.loading.driver import Contender, Entry
from benchmarks.loading.entries import (
    CEILING,
    PEERS,
    STOKER,
    STREAMED,
    absent,
    local_entries,
    pick,
    s3_entries,
    streaming,
)
from benchmarks.loading.soak import Sample, Soak, soak
from benchmarks.loading.standings import Round, Standing, Standings
from benchmarks.loading.tree import Peaks, look
from benchmarks.synthetic import flatten, make_tokens
from loaders import TokenDataset
from shards.errors import StokerError
from shards.verify import verify

ROWS, SEQ_LEN, TOKENS = 4, 64, 100_000


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "objects", TOKENS, ROWS, SEQ_LEN)


def entry(name: str, size: int = 2 * TOKENS) -> Entry:
    return next(one for one in local_entries(size, PEERS) if one.name == name)


# --- data --------------------------------------------------------------------------------------


def test_the_random_dataset_is_a_whole_dataset_and_the_flat_file_is_its_stream(tmp_path):
    uri = make_tokens(tmp_path / "tokens", TOKENS)
    verify(uri)
    dataset = TokenDataset(uri, SEQ_LEN)
    tokens = np.fromfile(flatten(uri, tmp_path / "tokens.bin"), dtype=np.uint16)
    assert len(tokens) == TOKENS
    for number in (0, 1, len(dataset) - 1):
        run = tokens[number * SEQ_LEN : (number + 1) * SEQ_LEN].astype(np.int64)
        assert dataset[number]["input_ids"].tolist() == run.tolist()


def test_the_data_is_whole_batches_so_that_nobody_has_a_remainder_to_leave_out(data):
    assert data.tokens == TOKENS // (ROWS * SEQ_LEN) * ROWS * SEQ_LEN
    ids = np.fromfile(data.flat, dtype=data.dtype)
    assert (len(ids), ids.sum(dtype=np.int64)) == (data.tokens, data.ids_sum)


# --- who takes part ----------------------------------------------------------------------------


def test_every_entry_has_a_script_and_a_name_of_its_own(repository):
    for entries in (local_entries(1 << 28, PEERS), s3_entries(1 << 28, PEERS)):
        assert len({one.name for one in entries}) == len(entries)
        for one in entries:
            assert (repository / "benchmarks" / "peers" / f"load_{one.script}.py").exists()
            assert not one.venv or (repository / "benchmarks/peers" / f"{one.venv}.txt").exists()


def test_streaming_has_memory_for_a_quarter_and_blocks_of_a_mebibyte_where_data_is_large():
    assert streaming(256 << 20) == {"prefetch_bytes": 64 << 20, "lanes": 16}
    assert streaming(400_000)["lanes"] == 4


def test_words_pick_entries_and_the_limit_stays():
    entries = local_entries(1 << 28, PEERS)
    names = [one.name for one in pick(entries, ["litdata", "epochs"])]
    assert names[0] == CEILING
    assert names[1] == f"{STREAMED} by epochs"
    assert {name.split()[0] for name in names[2:]} == {"litData"}
    assert pick(entries, []) == entries


def test_a_peer_that_is_not_installed_is_a_line_that_says_so(data, monkeypatch, tmp_path):
    monkeypatch.setattr(tokenize_contest, "VENVS", tmp_path / "none")
    gone = entry("litData TokensLoader, 0 workers")
    assert absent(gone) == "not installed: make peers"
    field = Field([gone], data)
    assert list(field.running()) == []
    table = Standings((stood(CEILING, 1000), *field.standings)).table()
    assert "litData TokensLoader, 0 workers not installed: make peers" in table


# --- the processes -----------------------------------------------------------------------------


def test_local_rounds_are_interleaved_over_ends_of_epochs_and_an_epoch_is_every_token_once(data):
    entries = [entry(CEILING), entry(f"{STREAMED} by epochs")]
    found = compare_local(entries, data, Effort(rounds=2, seconds=0.05, openings=1))
    ceiling, stoker = found.all
    assert [len(one.rounds) for one in found.all] == [2, 2]
    assert [one.told for one in found.all] == ["equal", "equal"]
    assert ceiling.gives == "int64"
    assert stoker.gives == "int64 + labels"
    assert len(stoker.resume_s) == 1
    assert ceiling.resume_s == []  # there is nothing to resume
    for one in found.all:
        for each in one.rounds:
            assert each.tokens > 0
            assert each.seconds >= 0.05
            assert 0 < each.gap_p50_s <= each.gap_p99_s <= each.gap_max_s <= each.seconds
            assert each.processes == 1
            assert each.threads >= 1
            assert each.rss > 50 << 20
    # A batch at a time, more of them than an epoch has.
    assert max(each.tokens for each in ceiling.rounds) > data.tokens


FAILING = """
import os, sys
from load_contract import Contender, serve
class Failing(Contender):
    def open(self, state):
        print("printed by a library", flush=True)
        if self.task.options["how"] == "raises":
            raise OSError("the chunk is gone")
        sys.stderr.write("it fell over")
        sys.stderr.flush()
        os._exit(7)
serve(Failing)
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "open: OSError: the chunk is gone"),
        ("dies", "open: ended with exit code 7: .*it fell over"),
    ],
)
def test_a_contender_that_fails_is_told_in_its_own_words(how, words, data, script):
    failing = Entry("failing", script("failing", FAILING), options={"how": how})
    with Contender(failing, data.task(failing)) as one, pytest.raises(StokerError, match=words):
        one.ask("open", state=None)


HANGING = """
import multiprocessing, threading
from load_contract import Contender, serve
class Hanging(Contender):
    def open(self, state):
        multiprocessing.get_context("fork").Process(target=threading.Event().wait).start()
        threading.Event().wait()
serve(Hanging)
"""


def test_a_contender_that_hangs_is_ended_with_its_workers(data, script):
    hanging = Entry("hanging", script("hanging", HANGING))
    with Contender(hanging, data.task(hanging)) as one:
        with pytest.raises(StokerError, match=r"open: no answer within 1 s"):
            one.ask("open", state=None, patience=1)
        until = time.monotonic() + 30
        while len(family := psutil.Process(one.pid).children()) < 1 and time.monotonic() < until:
            time.sleep(0.01)
        folder = Path(one._folder)
    assert family
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not folder.exists()


@pytest.fixture
def script(tmp_path, monkeypatch, repository):
    """Makes a contender's script out of a text; its name."""
    monkeypatch.setattr("benchmarks.loading.driver.SCRIPTS", tmp_path)
    contract = repository / "benchmarks" / "peers" / "load_contract.py"
    (tmp_path / "load_contract.py").write_text(contract.read_text())

    def make(name: str, text: str) -> str:
        (tmp_path / f"load_{name}.py").write_text(text)
        return name

    return make


def test_peaks_are_those_of_a_tree_of_processes():
    with Peaks(psutil.Process().pid) as alone:
        pass
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    with Peaks(psutil.Process().pid) as seen:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            sum(range(1000))
    assert seen.rss >= alone.rss
    assert seen.cpu_s >= 0.25
    assert look(psutil.Process().pid).files > 2


def test_the_proxy_holds_every_request_back_and_passes_the_rest(s3):
    bucket = s3.bucket("load-delay")
    s3.path(f"{bucket}/object").write_bytes(bytes(1 << 20))
    with delayed(s3.endpoint, 50) as near:
        client = s3.client(endpoint_url=near)
        for _ in range(3):
            began = time.perf_counter()
            read = client.get_object(Bucket="load-delay", Key="object", Range="bytes=7-99999")
            assert len(read["Body"].read()) == 99_993
            assert time.perf_counter() - began > 0.05


# --- the table ---------------------------------------------------------------------------------


def stood(name: str, *rates_mtok: float, **changes: object) -> Standing:
    rounds = [
        Round(
            tokens=round(rate * 2e6), seconds=2.0, gap_p50_s=1e-5, gap_p99_s=0.002,
            gap_max_s=0.01 * number, cpu_s=rate * 2e-3, rss=300 << 20, threads=8, processes=1,
        )
        for number, rate in enumerate(rates_mtok, 1)
    ]  # fmt: skip
    fields = {"first_s": [0.2, 0.4, 0.3], "resume_s": [0.25], "gives": "int64", "told": "equal"}
    return Standing(name, rounds, **(fields | changes))  # type: ignore[arg-type]


def test_a_line_is_medians_and_spread_beside_the_first():
    table = Standings((stood(CEILING, 900, 1000, 2000), stood(STOKER, 600, 700, 500))).table()
    title, head, limit, stoker = table.splitlines()
    assert title == "local files; medians of 3 rounds"
    assert limit.split()[3:][:5] == ["1000.0", "900.0", "-", "2000.0", "1.000"]
    assert stoker.split()[1:] == [
        "600.0", "500.0", "-", "700.0", "0.600", "0.300", "0.250", "2.00", "30.0", "1.00", "300",
        "8", "1", "int64",
    ]  # fmt: skip
    assert len(head) >= 120


def test_other_tokens_and_a_peer_that_failed_are_told_in_its_line():
    other = stood("MosaicML Streaming, 0 workers", 5, told="OTHER ids than the source's")
    failed = stood("litData TokensLoader, 0 workers", 100, failed="round: no answer within 300 s")
    never = Standing("HF datasets, 0 workers", failed="not installed: make peers")
    lines = Standings((stood(CEILING, 1000), other, failed, never)).table().splitlines()
    assert lines[3].endswith("int64; OTHER ids than the source's")
    assert lines[4].endswith("int64; later: round: no answer within 300 s")
    assert lines[5] == "HF datasets, 0 workers         not installed: make peers"


def test_the_aims_are_told_with_whether_they_are_met():
    local = Standings(
        (
            stood(CEILING, 1000),
            stood(STOKER, 600),
            stood(STREAMED, 400),
            stood("litData TokensLoader, 0 workers", 100),
            stood("litData TokensLoader, 2 workers", 250),
            stood("MosaicML Streaming, 0 workers", 5),
        )
    )
    assert local.summary() == [
        "Stoker / copy + cast: 0.60 (aim 0.5: met)",
        "Stoker, streaming / copy + cast: 0.40 (aim 0.5: NOT met)",
        "Stoker / litData TokensLoader, 2 workers: 2.40x (aim 3x: NOT met)",
        "Stoker / MosaicML Streaming, 0 workers: 120.00x (aim 50x: met)",
    ]
    s3 = Standings((stood("GETs", 100), stood(STOKER, 95)), latency_ms=20)
    assert s3.summary() == [
        "Stoker / ranged GETs, nothing else: 0.95 (aim 0.9: met)",
        "Stoker, first batch: 0.300 s (aim 0.18 s: NOT met)",
        "Stoker, resumed at 90 %: 0.83 of the first batch's time",
    ]


def test_the_tables_are_json_too():
    content = Standings((stood(CEILING, 1000), stood(STOKER, 600)), latency_ms=20).content()
    again = json.loads(json.dumps(content))
    assert again["latency_ms"] == 20
    assert again["entries"][1]["rounds"][0]["tokens"] == 1_200_000_000


# --- the soak ----------------------------------------------------------------------------------


def soaked(**changes: list[int]) -> Soak:
    usual = {"rss": [100 << 20] * 8, "threads": [20] * 8, "files": [9] * 8, "sockets": [16] * 8}
    rows = itertools.count(1)
    samples = zip(*(usual | changes).values(), strict=True)
    return Soak(tuple(Sample(next(rows) * 60.0, *one) for one in samples), 4_000_000, 1_000_000)


def test_a_soak_is_flat_when_the_last_quarter_is_as_the_second():
    assert soaked(rss=[50 << 20, *[100 << 20] * 7], threads=[5, *[20] * 5, 3, 20]).flat
    assert soaked(sockets=[16, 16, 12, 16, 17, 17, 18, 20]).flat  # connections come and go
    assert "\nflat: memory x 1.000" in soaked().table()
    assert "4.0 epochs" in soaked().table()


@pytest.mark.parametrize(
    "grown",
    [
        {"files": [9, 9, 9, 9, 10, 10, 10, 10]},
        {"sockets": [16, 17, 18, 19, 20, 21, 22, 23]},
        {"threads": [20, 20, 20, 20, 20, 20, 22, 22]},
        {"rss": [step << 20 for step in range(100, 116, 2)]},
    ],
)
def test_a_soak_in_which_something_grows_is_not_flat(grown):
    assert not soaked(**grown).flat
    assert "NOT flat" in soaked(**grown).table()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_streaming_from_s3_leaves_memory_threads_and_files_as_they_were():
    curve = soak(60, tokens=4_000_000, latency_ms=2)
    assert curve.tokens > 4 * curve.epoch_tokens
    # Memory by 5 % at most: a batch of an epoch that is held would be 3 % of it, ten times over.
    assert curve.grown() == [], curve.table()


# --- the command -------------------------------------------------------------------------------

TINY = ["--tokens", str(TOKENS), "--batch-size", str(ROWS), "--seq-len", str(SEQ_LEN)]
SHORT = ["--rounds", "1", "--seconds", "0.05", "--openings", "1", "--s3-seconds", "0.5"]


def test_the_command_prints_one_table_with_the_aims_under_it(capsys):
    assert main([*TINY, *SHORT, "--store", "local", "--only", "by epochs", "--openings", "0"]) == 0
    printed = capsys.readouterr().out
    assert "local files; medians of 1 rounds" in printed
    assert f"\n{CEILING}" in printed
    assert f"\n{STREAMED} by epochs" in printed
    assert "litData" not in printed


def test_help_says_what_is_measured_and_how_to_choose():
    words = make_parser().format_help()
    for name in ("--soak", "--only", "--latency", "make peers", "99th percentile", "resume s"):
        assert name in words


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_measures_stoker_the_connector_and_torch_on_both_stores(tmp_path, capsys):
    peers = ["--peers", "torch", "s3torchconnector"]
    out = tmp_path / "all.json"
    assert main([*TINY, *SHORT, *peers, "--latency", "0", "5", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert [one["latency_ms"] for one in content["standings"]] == [None, 0, 5]
    for standings in content["standings"]:
        for one in standings["entries"]:
            assert one["failed"] == "", one
            assert one["told"] in ("equal", "not looked at", ""), one
            assert one["rounds"], one
        assert standings["store"] in printed
    assert content["environment"]["cores"]


# Peers are 5 GB that only `make peers` brings: where there are none, there is nothing to test.
INSTALLED = [
    one for one in local_entries(2 * TOKENS, PEERS) if one.venv and not absent(one)
]  # fmt: skip

if INSTALLED:

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("peer", INSTALLED, ids=[one.name for one in INSTALLED])
    def test_a_peer_that_is_installed_gives_every_token_once_and_goes_on_from_its_state(peer, data):
        (found,) = Field([peer], data).standings
        assert found.failed == ""
        with Contender(peer, data.task(peer)) as one:
            said = one.ask("epoch")
            state = one.ask("state", at=0.5)["state"]
        assert (said["tokens"], said["ids_sum"]) == (data.tokens, data.ids_sum)
        with Contender(peer, data.task(peer)) as one:
            one.ask("open", state=state)
            left = one.ask("round", seconds=60, endless=False)
        batch = ROWS * SEQ_LEN
        assert left["over"]
        assert abs(left["tokens"] + batch - data.tokens / 2) <= 4 * batch
