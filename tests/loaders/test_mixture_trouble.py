"""A mixture over an S3 server that misbehaves: exact batches, or an exception that says why."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from loaders import BatchTimeout, Mixture
from loaders.attempts import Patience
from shards.errors import CorruptShard
from tests.faulty_s3 import Fault, FaultyS3, always, faulty_s3, of_shards, share_of
from tests.loaders.mixtures import mixture, ranks, steps
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
    loader = ranks(on_s3, 2, 4, shuffle=True, timeout=1, stall_warning_s=0.3)[0]
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
