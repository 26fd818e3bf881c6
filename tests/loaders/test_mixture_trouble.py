"""A mixture over an S3 server that misbehaves: exact batches, or an exception that says why."""

import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from loaders import BatchTimeout, Mixture
from loaders.attempts import Patience
from shards.errors import CorruptShard, DatasetError
from tests.faulty_s3 import Fault, FaultyS3, always, faulty_s3, of_shards, share_of
from tests.loaders.leaving import MARK, MOST_SECONDS, leaving
from tests.loaders.mixtures import SEQ_LEN, mixture, ranks, source, steps
from tests.servers import S3Server

HASTY = Patience(deadline=1.0, total=60.0, first_pause=0.02, throttled_pause=0.05)
STREAMING = {"prefetch_bytes": 12_000, "lanes": 8}


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr("loaders.fetch.PATIENCE", HASTY)
        yield proxy


@pytest.fixture
def on_s3(s3: S3Server, proxy: FaultyS3) -> Mixture:
    uri = s3.bucket("loaders-mixture-trouble")
    return mixture(uri, {"code": 60, "web": 200}, {"code": 0.3, "web": 0.7})


def test_no_batch_in_time_says_which_row_is_waited_for(
    on_s3: Mixture,
    proxy: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What is stuck gives up soon after the test.
    monkeypatch.setattr("loaders.fetch.PATIENCE", replace(HASTY, total=2.0, first_total=2.0))
    proxy.behave(of_shards(always(Fault.STALL)))
    loader = ranks(on_s3, 2, 4, shuffle=True, timeout=0.5)[0]
    with pytest.raises(BatchTimeout, match=r"timeout=0\.5 s: .* reads are under way"):
        next(iter(loader))
    proxy.behave(of_shards(lambda request: None))
    loader = ranks(on_s3, 2, 8, shuffle=True, timeout=1, stall_warning_s=0.3)[0]
    batches = loader.repeat()
    for _ in islice(batches, 100):  # both sources are in memory now
        pass
    proxy.behave(of_shards(always(Fault.STALL)))
    row = r"a sample of source '(code|web)' \(s3://.*\) that is read by itself"
    with (
        caplog.at_level(logging.WARNING, "loaders.mixture_iterator"),
        pytest.raises(BatchTimeout, match=rf"no batch within timeout=1 s: {row}"),
    ):
        for _ in islice(batches, 300):
            pass
    assert [*batches] == []
    (line,) = (record.message for record in caplog.records if record.name.endswith("iterator"))
    assert line.startswith("no batch for 0.3 s (step ")
    assert line.endswith("that is read by itself")


def test_a_damaged_source_is_named(on_s3: Mixture, proxy: FaultyS3) -> None:
    proxy.behave(of_shards(always(Fault.CORRUPT)))
    loader = ranks(on_s3, 1, 4, shuffle=True)[0]
    batches = iter(loader)
    with pytest.raises(CorruptShard, match=r"s3://.*/(code|web)/shards/"):
        next(batches)
    assert [*batches] == []
    assert loader.state_dict()["position"] == 0


@pytest.mark.slow
def test_faults_change_no_batch(on_s3: Mixture, proxy: FaultyS3) -> None:
    expected = steps(ranks(on_s3, 1, 8, shuffle=True), 40)
    proxy.latency_s = (0.0, 0.2)
    proxy.behave(of_shards(share_of(0.05, Fault.SLOW_DOWN, Fault.RESET, Fault.SHORT, Fault.STALL)))
    loaders = ranks(on_s3, 2, 8, shuffle=True, timeout=120, **STREAMING)
    assert steps(loaders, 40) == expected
    assert proxy.met.total() > 3
    assert sum(loader.stats()["moved_rows"] for loader in loaders) > 3


def test_sources_are_opened_side_by_side_and_keep_their_order(
    on_s3: Mixture, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = {part.name: part.dataset.uri for part in on_s3.parts}
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience())
    proxy.latency_s = (1.0, 1.0)
    proxy.behave(lambda request: None)
    again = Mixture({name: (uri, 1) for name, uri in reversed(uris.items())}, SEQ_LEN)
    assert [part.dataset.uri for part in again.parts] == [uris[name] for name in sorted(uris)]
    served = [one for one in proxy.served if "/manifest.json" in one.line]
    began, ended = [[getattr(one, at) for one in served] for at in ("began", "ended")]
    assert len(served) == 2
    assert max(began) < min(ended), "the second manifest was asked for before the first had come"


def test_the_first_source_that_cannot_be_opened_is_the_error(
    on_s3: Mixture, proxy: FaultyS3
) -> None:
    uris = {part.name: part.dataset.uri for part in on_s3.parts}
    proxy.behave(lambda request: Fault.STALL if "/code/" in request.path else None)
    wrong = {**uris, "wrong": f"{uris['web']}/nowhere"}
    with pytest.raises(DatasetError, match="nowhere holds no token dataset"):
        Mixture({name: (uri, 1) for name, uri in wrong.items()}, SEQ_LEN)
    proxy.behave(lambda request: None)


def test_leaving_while_single_rows_are_read_is_no_crash(tmp_path: Path) -> None:
    """Two times of three it was one, of threads in torch's code."""
    uri = source(str(tmp_path / "tokens"), 0, 200).uri
    code = f"""
        import os
        from loaders import TokenDataset
        from loaders.mixture_rows import Singles

        for number in range(4):
            if child := os.fork():
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
                continue
            dataset, singles = TokenDataset({uri!r}, {SEQ_LEN}), Singles()
            asked = [singles.ask(dataset, range(n % 50, n % 50 + 30)) for n in range(3000)]
            asked[5].result()
            if number % 2:  # its threads are not known by it any more
                singles.close()
                del singles, asked
            break
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["0"] * 4, done.stderr


def test_leaving_takes_no_time_while_single_rows_are_stuck(on_s3: Mixture, proxy: FaultyS3) -> None:
    code = f"""
        import time
        from loaders import TokenDataset
        from loaders.mixture_rows import Singles

        dataset, singles = TokenDataset({on_s3.parts[0].dataset.uri!r}, {SEQ_LEN}), Singles()
        print("open", flush=True)
        input()
        asked = [singles.ask(dataset, [n]) for n in range(9)]
        time.sleep(0.3)
        {MARK}
    """
    with leaving(code) as child:
        assert child.says() == "open"
        proxy.behave(of_shards(always(Fault.STALL)))
        child.go_on()
        assert child.waited() < MOST_SECONDS
