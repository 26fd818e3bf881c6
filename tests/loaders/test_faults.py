"""Damage and trouble reach the training loop in words: never as a wrong batch, never as a hang."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import BatchTimeout, TokenDataset
from loaders.attempts import Patience
from shards.errors import CorruptShard, StokerError, StoreError
from tests.loaders.leaving import MARK, MOST_SECONDS, leaving
from tests.loaders.proxy import Proxy, proxy_to
from tests.loaders.support import (
    Modes,
    first_tokens,
    stoker_threads,
    token_dataset,
    token_loader,
    wait_until,
)
from tests.servers import S3Server

SEQ_LEN = 64
TOKENS = 60_000


@pytest.fixture
def on_disk(tmp_path: Path) -> TokenDataset:
    return token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def on_s3(s3: S3Server, proxy: Proxy) -> TokenDataset:
    return token_dataset(s3.bucket("loaders-faults") + "/tokens", TOKENS, seq_len=SEQ_LEN)


def largest_shard(dataset: TokenDataset) -> Path:
    return max(Path(dataset.uri).glob("shards/*/*.arrow"), key=lambda path: path.stat().st_size)


def until_it_fails(dataset: TokenDataset, **arguments: Any) -> tuple[BaseException, list[int]]:
    """What `next()` raised, and the first tokens of the batches before."""
    iterator = iter(token_loader(dataset, 8, True, **arguments))
    seen: list[int] = []
    try:
        for batch in iterator:
            seen += first_tokens(batch)
    except StokerError as error:
        # Finished is finished, and no thread stays behind.
        assert list(iterator) == []
        wait_until(lambda: not stoker_threads())
        return error, seen
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("mode", Modes)
def test_one_flipped_byte_names_shard_and_range_and_never_shows(
    on_disk: TokenDataset, mode: str
) -> None:
    shard = largest_shard(on_disk)
    data = bytearray(shard.read_bytes())
    # Somewhere in the token bytes, which fill nearly all of the file.
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    error, seen = until_it_fails(on_disk, **Modes[mode])
    assert isinstance(error, CorruptShard)
    assert shard.name in str(error)
    assert all(token % SEQ_LEN == 0 for token in seen)
    with pytest.raises(CorruptShard, match=shard.name):
        on_disk[:]


@pytest.mark.parametrize("mode", Modes)
def test_a_shard_cut_short_names_shard_and_range(on_disk: TokenDataset, mode: str) -> None:
    shard = largest_shard(on_disk)
    os.truncate(shard, shard.stat().st_size // 2)
    error, seen = until_it_fails(on_disk, **Modes[mode])
    assert isinstance(error, CorruptShard)
    assert shard.name in str(error)
    assert "cut short" in str(error)
    assert all(token % SEQ_LEN == 0 for token in seen)


def test_a_shard_that_is_gone_is_named(on_disk: TokenDataset) -> None:
    shard = largest_shard(on_disk)
    shard.unlink()
    error, _ = until_it_fails(on_disk)
    assert isinstance(error, StoreError)
    assert f"{shard.name}: no such file" in str(error)


def test_a_damaged_object_on_s3_is_read_again_then_named(s3: S3Server, on_s3: TokenDataset) -> None:
    folder = s3.path(on_s3.uri)
    shard = max(folder.glob("shards/*/*.arrow"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    loader = token_loader(on_s3, 8, True)
    with pytest.raises(CorruptShard, match=shard.name):
        list(loader)
    assert loader.stats()["corrupt_rereads"] == 1


def test_stalled_answers_do_not_change_the_batches(
    on_s3: TokenDataset, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [first_tokens(batch) for batch in token_loader(on_s3, 8, True)]
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience(deadline=0.4))
    loader = token_loader(on_s3, 8, True)
    proxy.stall(2)
    assert [first_tokens(batch) for batch in loader] == expected
    assert loader.stats()["timeouts"] >= 1


def test_timeout_says_what_is_being_waited_for(on_s3: TokenDataset, proxy: Proxy) -> None:
    proxy.stall(10_000)
    loader = token_loader(on_s3, 8, True, timeout=1.5)
    began = time.monotonic()
    with pytest.raises(BatchTimeout, match=r"no batch within timeout=1\.5 s: \d+ reads are under"):
        next(iter(loader))
    assert time.monotonic() - began < 4
    assert issubclass(BatchTimeout, RuntimeError)  # as torch's own


def test_a_stall_is_one_line_in_the_log_that_says_what_is_waited_for(
    on_s3: TokenDataset, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.stall(10_000)
    loader = token_loader(on_s3, 8, True, stall_warning_s=0.5, timeout=1.5)
    with pytest.raises(BatchTimeout) as error:
        next(iter(loader))
    read = rf"the oldest {on_s3.uri}/shards/\S+ bytes \d+-\d+, attempt 1, for "
    (line,) = (one.getMessage() for one in caplog.records if one.name == "loaders.iterator")
    assert re.fullmatch(rf"no batch for 0\.5 s \(step 1\): \d+ reads are .*{read}0\.[3-9] s", line)
    assert re.search(rf"{read}1\.\d s", str(error.value))


def test_a_store_that_answers_leaves_no_line_in_the_log(
    on_s3: TokenDataset, caplog: pytest.LogCaptureFixture
) -> None:
    list(token_loader(on_s3, 8, True, stall_warning_s=30))
    assert not caplog.records


def test_a_server_that_dies_in_mid_epoch_is_an_error_in_words(
    on_s3: TokenDataset, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience(total=2.0))
    iterator = iter(token_loader(on_s3, 8, True, prefetch_factor=2, **Modes["streaming"]))
    next(iterator)
    proxy.gone()
    began = time.monotonic()
    # The CRT forgets the address of a host that refused, and may then say that it can't find it.
    words = r"could not be read: \d+ attempts in \d+ s.*(REFUSED|DNS_QUERY_FAILED)"
    with pytest.raises(StoreError, match=words):
        list(iterator)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("seconds", [1.0, pytest.param(21.0, marks=pytest.mark.slow)])
def test_an_endpoint_that_refuses_is_an_error_at_opening(
    on_s3: TokenDataset, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    assert Patience().first_total == 21.0
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience(first_total=seconds))
    proxy.gone()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"/manifest\.json bytes 0-\d+ could not be read"):
        TokenDataset(on_s3.uri, SEQ_LEN)
    assert time.monotonic() - began < seconds + 20


@pytest.mark.parametrize(
    "where", [pytest.param("disk", marks=pytest.mark.slow), "s3", "stalled s3"]
)
def test_leaving_with_a_half_consumed_iterator_takes_no_time(
    request: pytest.FixtureRequest, where: str
) -> None:
    dataset: TokenDataset = request.getfixturevalue("on_disk" if where == "disk" else "on_s3")
    stall = "" if where != "stalled s3" else "proxy"
    code = f"""
        import time
        from loaders import DataLoader, TokenDataset
        loader = DataLoader(TokenDataset({dataset.uri!r}, {SEQ_LEN}), 8, True, prefetch_factor=2,
                            prefetch_bytes=16384, lanes=8)
        iterator = iter(loader)
        next(iterator)
        print("took one", flush=True)
        input()
        {MARK}
    """
    with leaving(code) as child:
        assert child.says() == "took one"
        if stall:
            request.getfixturevalue(stall).stall(10_000)
        child.go_on()
        assert child.waited() < MOST_SECONDS
