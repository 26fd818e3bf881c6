"""Whole epochs from a real S3 server that misbehaves: the batches are exact, and nothing hangs."""

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loaders import TokenDataset
from loaders.attempts import Patience
from tests.faulty_s3 import (
    Fault,
    FaultyS3,
    Rule,
    always,
    every,
    faulty_s3,
    of_shards,
    share_of,
)
from tests.loaders.leaving import MARK, MOST_SECONDS, leaving
from tests.loaders.support import (
    Modes,
    first_tokens,
    stoker_threads,
    token_dataset,
    token_loader,
    wait_until,
)
from tests.servers import S3Server, kill, serve_s3, started_again

SEQ_LEN = 64
TOKENS = 36_000
STREAMING = Modes["streaming"]
# Threads, their buffers, finished batches and the CRT's own, in MiB. 4 to 35 were measured.
FIXED_MIB = 64
# Faults of a test come in seconds, not in hours.
HASTY = Patience(deadline=1.0, total=60.0, first_pause=0.02, throttled_pause=0.05)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr("loaders.fetch.PATIENCE", HASTY)
        yield proxy


@pytest.fixture
def on_s3(s3: S3Server, proxy: FaultyS3) -> TokenDataset:
    return token_dataset(s3.bucket("loaders-trouble") + "/tokens", TOKENS, seq_len=SEQ_LEN)


def batches(dataset: TokenDataset, **arguments: Any) -> tuple[list[list[int]], dict[str, Any]]:
    """First tokens of an epoch's batches, which are read a few ahead; what the loader counted."""
    loader = token_loader(dataset, 8, True, timeout=120, **{"prefetch_factor": 4} | arguments)
    return [first_tokens(batch) for batch in loader], loader.stats()


# A fault, which requests it befalls (None: all of them, until the statistics show it), and what
# the statistics show. The CRT makes four attempts by itself where it gets an answer or a reset.
FAULTS: dict[str, tuple[Fault, Rule | None, str]] = {
    "503": (Fault.SLOW_DOWN, None, "throttled"),
    "reset": (Fault.RESET, None, "retries"),
    "lost answer": (Fault.LOST, None, "retries"),
    "short body": (Fault.SHORT, None, "retries"),
    "corrupt body": (Fault.CORRUPT, every(25, Fault.CORRUPT), "corrupt_rereads"),
    "a stall": (Fault.STALL, every(60, Fault.STALL), "hedges_won"),
    "a stall in the body": (Fault.HANG, every(60, Fault.HANG), "hedges_won"),
    "stalls": (Fault.STALL, None, "timeouts"),
}


def named(*faults: str) -> list[Any]:
    return [pytest.param(name, marks=() if name in faults else pytest.mark.slow) for name in FAULTS]


@pytest.mark.parametrize("name", named("503", "reset", "corrupt body", "a stall"))
def test_a_fault_changes_no_batch_and_shows_in_the_statistics(
    on_s3: TokenDataset, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault, rule, shown = FAULTS[name]
    if shown in ("throttled", "retries"):
        # The CRT tells of it after its last attempt only.
        monkeypatch.setattr("loaders.fetch.PATIENCE", replace(HASTY, deadline=20.0))
    expected, calm = batches(on_s3, **STREAMING)
    assert calm["retries"] == calm["corrupt_rereads"] == calm["timeouts"] == 0
    loader = token_loader(on_s3, 8, True, timeout=120, prefetch_factor=4, **STREAMING)
    proxy.behave(of_shards(rule or (lambda request: None if loader.stats()[shown] else fault)))
    assert [first_tokens(batch) for batch in loader] == expected
    assert proxy.met[fault] > 0
    assert loader.stats()[shown] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", Modes)
def test_all_faults_at_once_and_half_a_second_of_latency_change_no_batch(
    on_s3: TokenDataset, proxy: FaultyS3, tmp_path: Path, mode: str
) -> None:
    expected = [batches(on_s3, **Modes[mode])[0]]
    proxy.latency_s = (0.0, 0.5)
    proxy.behave(
        of_shards(
            share_of(
                0.07, *(fault for fault, _, _ in FAULTS.values() if fault is not Fault.CORRUPT)
            )
        )
    )
    for arguments in ({}, {"cache_dir": tmp_path, "cache_bytes": 100_000}, {"num_workers": 3}):
        found, stats = batches(on_s3, **Modes[mode], **arguments)
        assert [found] == expected
        assert stats["retries"] > 0 or mode == "resident"
    assert proxy.met.total() > 5 or mode == "resident"


def test_a_late_read_is_hedged_before_its_deadline(
    on_s3: TokenDataset, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.fetch.PATIENCE", replace(HASTY, deadline=60.0))
    expected, _ = batches(on_s3, **STREAMING)
    proxy.behave(of_shards(share_of(0.02, Fault.STALL)))
    found, stats = batches(on_s3, **STREAMING)
    assert found == expected
    assert proxy.met[Fault.STALL] > 0
    assert stats["hedges"] >= stats["hedges_won"] >= 1
    assert stats["timeouts"] == 0


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_server_that_dies_and_comes_back_changes_no_batch(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    with serve_s3(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        dataset = token_dataset(server.bucket("mortal") + "/tokens", TOKENS, seq_len=SEQ_LEN)
        expected, _ = batches(dataset, **STREAMING)
        loader = token_loader(dataset, 8, True, timeout=120, prefetch_factor=2, **STREAMING)
        iterator = iter(loader)
        found = [first_tokens(next(iterator)) for _ in range(10)]
        kill(server)
        revived: list[S3Server] = []
        later = threading.Timer(seconds, lambda: revived.append(started_again(server)))
        later.start()
        try:
            found += [first_tokens(batch) for batch in iterator]
        finally:
            later.join()
            kill(revived[0])
    assert found == expected
    assert loader.stats()["retries"] > 0


@pytest.mark.slow
def test_no_thread_stays_behind_when_the_faults_are_over(
    on_s3: TokenDataset, proxy: FaultyS3
) -> None:
    proxy.stall_s = 3.0
    proxy.behave(of_shards(share_of(0.05, Fault.STALL, Fault.RESET)))
    batches(on_s3, **STREAMING)
    wait_until(lambda: not stoker_threads(), 20)


def test_leaving_takes_no_time_while_every_read_is_stuck_and_some_are_abandoned(
    on_s3: TokenDataset, proxy: FaultyS3, tmp_path: Path
) -> None:
    code = f"""
        import time
        import loaders.fetch
        from loaders import BatchTimeout, DataLoader, TokenDataset
        from loaders.attempts import Patience
        dataset = TokenDataset({on_s3.uri!r}, {SEQ_LEN})
        loaders.fetch.PATIENCE = Patience(deadline=0.3)
        loaders = [DataLoader(dataset, 8, True, timeout=1, cache_dir={str(tmp_path)!r},
                              cache_bytes=10**6) for _ in range(6)]
        print("open", flush=True)
        input()
        iterators = [iter(loader) for loader in loaders]
        try:
            next(iterators[0])
        except BatchTimeout:
            assert loaders[0].stats()["timeouts"] > 0
            {MARK}
    """
    with leaving(code) as child:
        assert child.says() == "open"
        proxy.behave(of_shards(always(Fault.STALL)))
        child.go_on()
        assert child.waited() < MOST_SECONDS


def test_leaving_while_reads_come_back_is_no_crash(s3: S3Server, proxy: FaultyS3) -> None:
    s3.bucket("loaders-exit")
    s3.path("s3://loaders-exit/a").write_bytes(bytes(1 << 20))
    proxy.latency_s = (0.05, 0.3)
    code = """
        import torch
        from loaders.fetch import FetchCounts, Fetcher
        from loaders.source import Read, open_source
        from tests.loaders.test_fetch import Kept
        fetcher = Fetcher(open_source("s3://loaders-exit"), 16, FetchCounts(), print)
        for n in range(300):
            fetcher.submit(Kept(Read("a", n, n + 10)), lambda: print("landed", flush=True))
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "landed\n"  # the others are under way
        child.communicate("\n", timeout=60)
    assert child.returncode == 0


# Memory.

_MEASURED = """
    import json, resource, sys
    import torch
    from loaders import DataLoader, TokenDataset

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(one.split()[1]) for one in lines if one.startswith("VmHWM")) * 1024

    uri, prefetch_bytes = sys.argv[1], int(sys.argv[2])
    dataset = TokenDataset(uri, 2048)
    # What S3 and torch take before there is a buffer.
    dataset[0]
    loader = DataLoader(dataset, 8, True, prefetch_bytes=prefetch_bytes, lanes=16)
    before = resident()
    tokens = sum(batch["input_ids"].numel() for batch in loader)
    print(json.dumps({"grown": peak() - before, "tokens": tokens, **loader.stats()}))
"""


@pytest.mark.slow
def test_prefetch_bytes_bounds_the_memory_of_the_process(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows by the buffer and by a little for threads and batches, over the whole epoch."""
    tokens = 15_000_000  # 60 MB
    grown = {}
    with serve_s3(tmp_path, etags=False) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        uri = token_dataset(server.bucket("large") + "/tokens", tokens, seq_len=2048).uri
        for mebibytes in (16, 56):
            command = [sys.executable, "-c", textwrap.dedent(_MEASURED), uri]
            done = subprocess.run(
                [*command, str(mebibytes << 20)], stdout=subprocess.PIPE, text=True, check=True
            )
            stats = json.loads(done.stdout)
            assert stats["bytes_read"] >= 4 * stats["tokens"] > 59e6
            grown[mebibytes] = stats["grown"] / (1 << 20)
    assert grown[16] < 16 + FIXED_MIB
    assert grown[56] - grown[16] < 40 * 1.3
