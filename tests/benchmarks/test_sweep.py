"""More workers are tried one number after the other, and other libraries in processes of theirs."""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.contest import missing
from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.profiles import PROFILES
from benchmarks.starvation.checks.ladder import Card
from benchmarks.starvation.command import main
from benchmarks.starvation.contenders import InlineTokenization, OwnLoader, Stoker, find_units
from benchmarks.starvation.contenders.lineup import make_peers
from benchmarks.starvation.contenders.peer import KNOWN, Peer
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.loop.attempt import Elsewhere, Resumable, attempt
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.sweep import sized, sweep
from benchmarks.starvation.loop.trial import measure
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import PEERS, Options
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError

SEQ_LEN, ROWS = 128, 8
# 10 ms a step: what loads takes less, but for inline tokenization.
PROFILE = replace(
    PROFILES["h100-1b"], step_s=0.01, batch_size=ROWS, seq_len=SEQ_LEN, parameters=0.0
)
PLAN = Plan(steps=8, warmup=2, seconds=30)


@pytest.fixture
def device():
    device = EmulatedAccelerator(PROFILE)
    yield device
    device.close()


def inline(made, workers: int) -> InlineTokenization:
    tokenizer = load_tokenizer(made.tokenizer)
    assert tokenizer.end_id is not None
    units = find_units(made.files, 2)
    return InlineTokenization(units, tokenizer.blob, tokenizer.end_id, SEQ_LEN, ROWS, workers)


def peer(made, library: str, workers: int = 0) -> Peer:
    return Peer(library, made.tokens, "train", SEQ_LEN, ROWS, Card(PROFILE), workers=workers)


def children() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True)}


def test_each_number_of_workers_is_tried_alone_and_in_the_loop(made, device):
    points = sweep(inline(made, 2), (1, 0, 1), device, PLAN)
    assert [point.workers for point in points] == [0, 1]
    for point in points:
        assert point.unthrottled_tokens_per_s > 0
        # The card takes 1,024 tokens in 10 ms.
        demand = 1024 / 0.01
        assert point.headroom == pytest.approx(point.unthrottled_tokens_per_s / demand, rel=0.01)
        assert point.stall_rate is not None
        assert 0 <= point.stall_rate < 1


def test_who_takes_no_number_of_workers_is_not_swept(made, device, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    batch = "dict.fromkeys(('input_ids', 'labels'), torch.zeros(8, 128, dtype=torch.int64))"
    (tmp_path / "sized_loaders.py").write_text(
        f"import torch\ndef fixed():\n    return [{batch}]\n"
        f"def free(workers=3):\n    return [{batch}] * (workers + 1)\n"
    )
    fixed, free = (OwnLoader(f"sized_loaders:{name}") for name in ("fixed", "free"))
    stoker = Stoker(made.tokens, SEQ_LEN, ROWS)
    assert [sized(each) for each in (stoker, fixed, free)] == [False, False, True]
    assert sweep(fixed, (0, 1), device, PLAN) == sweep(stoker, (0, 1), device, PLAN) == ()
    other = free.with_workers(1)
    assert other is not None
    batches = other.open()
    for _ in range(3):
        next(batches)
    assert other.epochs() == (2,)


def test_a_sweep_of_nobody_is_an_error_before_anything_is_measured(made, tmp_path, capsys):
    arguments = ["--data", made.tokens, "--output", str(tmp_path / "report")]
    assert main([*arguments, "--seq-len", "128", "--sweep-workers", "1", "2"]) == 1
    assert "nobody here takes a number of workers: add --text" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_what_fed_a_loop_is_let_go_with_its_processes(made, device):
    before = children()
    opened = []

    class Seen(InlineTokenization):
        def open(self, seed: int = 0):
            batches = super().open(seed)
            opened.append(weakref.ref(batches))
            return batches

    job = inline(made, 1)
    seen = Seen(job.units, job.tokenizer, job.end_id, SEQ_LEN, ROWS, 1)
    tried = attempt(seen, device, PLAN, 2)
    assert [each.seed for each in tried.recordings] == [0, 1]
    assert [ref() for ref in opened] == [None, None]
    assert children() == before
    stoker = Stoker(made.tokens, SEQ_LEN, ROWS)
    batches = stoker.open()
    next(batches)
    alive = weakref.ref(batches)
    del batches
    assert alive() is None


def test_a_contender_that_can_be_resumed_tells_how_long_that_takes(made, device):
    stoker = Stoker(made.tokens, SEQ_LEN, ROWS)
    assert isinstance(stoker, Resumable)
    assert not isinstance(inline(made, 0), Resumable)
    tried = attempt(stoker, device, PLAN, 2)
    assert len(tried.resume_ms) == 2
    assert all(ms > 0 for ms in tried.resume_ms)


# --- other libraries ---------------------------------------------------------------------------


def test_another_librarys_loader_trains_the_same_loop_in_a_process_of_its_own(made, device):
    before = children()
    other = peer(made, "torch")
    assert isinstance(other, Elsewhere)
    result, steps = measure(other, device, PLAN, 2)
    assert children() == before
    assert (result.name, result.title, result.seeds) == ("torch", "torch over a memory map", 2)
    assert result.figures.steps == 8
    assert len(steps) == 2 * 10
    # The very card of the run: 10 ms a step of 8 x 128 tokens.
    assert result.figures.demand_tokens_per_s == pytest.approx(1024 / 0.01, rel=0.01)
    assert sum(result.causes.values()) == result.window_ns
    assert result.cannot_see == ("fetch", "prep", "workers", "assemble")
    assert result.share("fetch", "prep", "workers", "assemble", "queue") == 0
    assert result.unthrottled_tokens_per_s is not None
    assert result.cores_to_feed is not None
    assert result.resume_gap_ms is not None


@pytest.mark.slow
def test_the_order_of_its_seed_is_another_one_and_always_the_same(made, device):
    other = peer(made, "torch")
    with other.ready():
        first, again = (attempt(other, device, PLAN, 2).recordings for _ in range(2))
    sums = [each.trace.checksum for each in first]
    assert sums == [each.trace.checksum for each in again]
    assert len(set(sums)) == 2


def test_a_librarys_process_that_fails_is_told_in_one_line(made, device):
    other = peer(made, "torch")
    with other.ready():
        assert other._folder is not None
        (other._folder / "ids").write_bytes(b"")
        with pytest.raises(StokerError, match=r"ended with exit code 1: .*mmap"):
            attempt(other, device, PLAN, 1)


def test_outside_its_ready_it_is_refused(made, device):
    with pytest.raises(StokerError, match="inside its ready"):
        attempt(peer(made, "torch"), device, PLAN, 1)


def test_a_library_that_is_not_there_is_left_out_with_what_to_do(made, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.contest.VENVS", tmp_path)
    options = Options(data=made.tokens, output=tmp_path, peers=PEERS)
    there, left_out = make_peers(options, Card(PROFILE), World(), emulated=True)
    assert [each.library for each in there] == ["torch"]
    assert left_out == {
        "litData": "not installed: make peers",
        "MosaicML Streaming": "not installed: make peers",
    }
    _, left_out = make_peers(options, Card(PROFILE), World(), emulated=False)
    assert set(left_out) == {title for title, _, _ in KNOWN.values()}
    far = Options(data="s3://somewhere/tokens", output=tmp_path, peers=("torch",))
    _, left_out = make_peers(far, Card(PROFILE), World(), emulated=True)
    assert left_out == {"torch over a memory map": "--peers needs --data on a local disk"}


def test_an_unknown_library_is_refused(tmp_path):
    with pytest.raises(StokerError, match="no peer 'webdataset': choose of litdata"):
        Options(data="x", output=tmp_path, peers=("webdataset",))


# They are where `make peers` was run; without them the test above is of all that can be done.
INSTALLED = [name for name in ("litdata", "mosaicml") if missing(name) is None]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", *INSTALLED])
def test_libraries_that_are_installed_feed_the_loop(made, device, library):
    other = peer(made, library, workers=1)
    before = set(os.listdir("/dev/shm"))
    with other.ready():
        tried = attempt(other, device, PLAN, 2)
    result = merge(other.name, other.title, other.note, tried.recordings)
    assert result.seeds == 2
    assert result.figures.steps == 8
    assert result.figures.padding_efficiency == 1
    assert tried.alone is not None
    assert len(tried.resume_ms) == 1
    first, second = (each.trace.checksum for each in tried.recordings)
    assert first != second
    assert set(os.listdir("/dev/shm")) - before == set()


@pytest.mark.slow
def test_the_command_takes_peers_and_a_sweep_and_the_page_marks_the_knee(made, tmp_path: Path):
    arguments = ["--data", made.tokens, "--text", *made.files, "--output", str(tmp_path)]
    quick = ["--seq-len", "128", "--batch-size", "8", "--time-scale", "0.2", "--steps", "20"]
    chosen = ["--peers", "torch", "--sweep-workers", "0", "1", "--workers", "1", "--seeds", "1"]
    assert main([*arguments, *quick, *chosen, "--warmup", "4", "--seconds", "10"]) == 0
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    tried = {each["name"]: [point["workers"] for point in each["workers"]] for each in results}
    assert tried == {"resident": [], "stoker": [], "inline": [0, 1], "torch": [0, 1]}
    assert "knee" in (tmp_path / "report.html").read_text()
    assert "the fewest that reach 90 %" in (tmp_path / "report.md").read_text()
