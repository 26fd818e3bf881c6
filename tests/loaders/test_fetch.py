"""Fetching from a real S3 server through a proxy that misbehaves: retried, or an error in words."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loaders.attempts import Patience
from loaders.bring import bring
from loaders.fetch import Fetcher
from loaders.source import PathSource, Read, Scratch, Source, open_source
from loaders.stats import FetchCounts
from shards.errors import CorruptShard, MissingObject, StoreError
from tests.loaders.leaving import MARK, MOST_SECONDS, leaving
from tests.loaders.proxy import Proxy, proxy_to
from tests.loaders.support import stoker_threads, wait_until
from tests.servers import S3Server

BYTES = bytes(range(256)) * 4096  # 1 MiB
HASTY = Patience(deadline=0.5, total=10.0, first_pause=0.02, longest_pause=0.2)


class Kept:
    """A part of one or more reads that keeps what lands; bad bytes are a CorruptShard."""

    def __init__(self, *reads: Read, rotten: int = 0) -> None:
        self.reads = reads
        self.landed: list[bytes] = []
        self._rotten = rotten

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        if self._rotten:
            self._rotten -= 1
            raise CorruptShard("cell 3 of shard 7")
        self.landed = [bytes(one) for one in data]


@pytest.fixture
def server(s3: S3Server) -> S3Server:
    s3.bucket("loaders-fetch")
    s3.path("s3://loaders-fetch/a").write_bytes(BYTES)
    return s3


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


class Outcome:
    """Parts brought by a fetcher, watched as the assembler does."""

    def __init__(self, source: Source, parts: list[Kept], patience: Patience = HASTY) -> None:
        self.counts = FetchCounts()
        self.errors: list[BaseException] = []
        done: list[int] = []
        fetcher = Fetcher(source, 4, self.counts, self.errors.append, patience)
        for part in parts:
            fetcher.submit(part, lambda: done.append(1))

        def ended() -> bool:
            fetcher.watch()
            return len(done) == len(parts) or bool(self.errors)

        wait_until(ended, 40)
        fetcher.close(0.5)


def test_ranges_arrive_as_asked_on_disk_and_s3(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BYTES)
    for uri in (str(tmp_path), "s3://loaders-fetch"):
        source = open_source(uri)
        parts = [Kept(Read("a", n * 1000, n * 1000 + 777), Read("a", n, n + 5)) for n in range(40)]
        bring(source, parts)
        for n, part in enumerate(parts):
            assert part.landed == [BYTES[n * 1000 : n * 1000 + 777], BYTES[n : n + 5]]


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_an_object_cut_short_is_an_error_that_names_it(
    server: S3Server, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "a").write_bytes(BYTES)
    source = open_source(str(tmp_path) if kind == "disk" else "s3://loaders-fetch")
    for start, end in ((1 << 20, 1048576), ((1 << 20) - 100, 1048576), (1 << 21, 2097152)):
        with pytest.raises(CorruptShard, match=rf"/a is cut short: it ends at byte {end}"):
            bring(source, [Kept(Read("a", start, start + 4096))])


def test_a_missing_object_is_named(server: S3Server, tmp_path: Path) -> None:
    for uri in (str(tmp_path), "s3://loaders-fetch"):
        with pytest.raises(MissingObject, match=r"/shards/0\.arrow: no such"):
            bring(open_source(uri), [Kept(Read("shards/0.arrow", 0, 10))])


def test_no_such_bucket_is_said_at_once(server: S3Server) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match="s3://loaders-nowhere: no such bucket"):
        bring(open_source("s3://loaders-nowhere/x"), [Kept(Read("a", 0, 10))])
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("proxy")
def test_wrong_credentials_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The proxy's endpoint is a new one, so it gets a client of its own.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"loaders-fetch/a: access denied\. Check AWS_ACCESS"):
        bring(open_source("s3://loaders-fetch"), [Kept(Read("a", 0, 10))])


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "not a url", "ftp://host"])
def test_an_endpoint_that_is_none_is_refused_before_it_can_panic(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL is .* must look like http://host:port"):
        bring(open_source("s3://loaders-fetch"), [Kept(Read("a", 0, 10))])


def test_a_stalled_read_goes_to_another_thread(proxy: Proxy) -> None:
    proxy.stall(3)
    parts = [Kept(Read("a", n, n + 100)) for n in range(8)]
    outcome = Outcome(open_source("s3://loaders-fetch"), parts)
    assert not outcome.errors
    assert [part.landed for part in parts] == [[BYTES[n : n + 100]] for n in range(8)]
    assert outcome.counts.timeouts >= 1
    assert outcome.counts.retries >= outcome.counts.timeouts


def test_a_store_that_never_answers_is_an_error_not_a_hang(proxy: Proxy) -> None:
    proxy.stall(10_000)
    patience = Patience(0.3, longest_deadline=0.3, total=1.5, first_pause=0.02, longest_pause=0.1)
    began = time.monotonic()
    outcome = Outcome(open_source("s3://loaders-fetch"), [Kept(Read("a", 0, 10))], patience)
    assert time.monotonic() - began < 10
    (error,) = outcome.errors
    assert isinstance(error, StoreError)
    assert "s3://loaders-fetch/a bytes 0-10 could not be read" in str(error)
    assert "no answer within 0.3 s" in str(error)


def test_stuck_threads_are_capped(proxy: Proxy) -> None:
    proxy.stall(10_000)
    patience = Patience(
        deadline=0.1, total=60, first_pause=0.01, longest_pause=0.02, most_abandoned=6
    )
    parts = [Kept(Read("a", n, n + 10)) for n in range(4)]
    before = len(stoker_threads())
    outcome = Outcome(open_source("s3://loaders-fetch"), parts, patience)
    assert "reads are stuck without an answer" in str(outcome.errors[0])
    assert len(stoker_threads()) - before <= 6 + 4 + 4


def test_with_many_threads_each_may_be_stuck_once_and_again(tmp_path: Path) -> None:
    """40 threads: 80 reads may be abandoned before the store is given up, not 64."""
    (tmp_path / "a").write_bytes(BYTES)
    release = threading.Event()

    class Stuck(PathSource):
        def read(self, read: Read, scratch: Scratch) -> memoryview:
            release.wait(60)
            return super().read(read, scratch)

    patience = Patience(0.2, 0.2, total=60, first_pause=0.01, longest_pause=0.02)
    counts, errors = FetchCounts(), list[BaseException]()
    fetcher = Fetcher(Stuck(tmp_path), 40, counts, errors.append, patience)
    parts = [Kept(Read("a", n, n + 1)) for n in range(40)]
    for part in parts:
        fetcher.submit(part, lambda: None)

    def over() -> bool:
        fetcher.watch()
        return bool(errors)

    wait_until(over, 40)
    release.set()
    assert re.search(r": (8[1-9]|9\d|1[01]\d|120) reads are stuck", str(errors[0]))


@pytest.mark.slow
def test_a_refused_endpoint_is_an_error_within_30_seconds(proxy: Proxy) -> None:
    source = open_source("s3://loaders-fetch")
    bring(source, [Kept(Read("a", 0, 10))])
    proxy.gone()
    began = time.monotonic()
    outcome = Outcome(source, [Kept(Read("a", 0, 10))], Patience())
    assert time.monotonic() - began < 30
    assert "could not be read" in str(outcome.errors[0])
    assert "CONNECTION_REFUSED" in str(outcome.errors[0])


def test_damaged_bytes_are_read_again_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BYTES)
    part = Kept(Read("a", 0, 10), Read("a", 5, 7), rotten=1)
    outcome = Outcome(PathSource(tmp_path), [part])
    assert part.landed == [BYTES[:10], BYTES[5:7]]
    assert (outcome.counts.corrupt_rereads, outcome.counts.requests) == (1, 4)
    outcome = Outcome(PathSource(tmp_path), [Kept(Read("a", 0, 10), rotten=2)])
    assert isinstance(outcome.errors[0], CorruptShard)
    assert "cell 3 of shard 7" in str(outcome.errors[0])


def test_a_file_that_fails_for_a_while_is_tried_again(tmp_path: Path) -> None:
    """What reading it says is a real EIO, as of NFS or FSx when its server is away: our own
    memory, at an address where there is none.
    """
    broken, whole = tmp_path / "a", tmp_path / "whole"
    broken.symlink_to("/proc/self/mem")
    whole.write_bytes(BYTES)
    part, errors = Kept(Read("a", 0, 10)), list[BaseException]()
    fetcher = Fetcher(PathSource(tmp_path), 1, counts := FetchCounts(), errors.append, HASTY)
    fetcher.submit(part, lambda: None)
    wait_until(lambda: counts.retries > 2)
    assert "last trouble: Input/output error (EIO)" in fetcher.waiting_for()
    whole.replace(broken)
    wait_until(lambda: bool(part.landed))
    fetcher.close(0.5)
    assert part.landed == [BYTES[:10]]
    assert not errors


def test_a_file_that_stays_broken_is_named_with_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/proc/self/mem")
    patience = Patience(total=0.2, first_pause=0.02)
    outcome = Outcome(PathSource(tmp_path), [Kept(Read("a", 0, 10))], patience)
    words = r"/a bytes 0-10 could not be read: \d+ attempts in 0 s, the last one: Input/output err"
    assert re.search(words, str(outcome.errors[0]))
    assert outcome.counts.retries > 0


@pytest.mark.parametrize("what", ["missing", "a loop", "a folder"])
def test_what_no_other_try_would_cure_is_an_error_at_once(tmp_path: Path, what: str) -> None:
    if what == "a loop":
        (tmp_path / "a").symlink_to("a")
    elif what == "a folder":
        (tmp_path / "a").mkdir()
    outcome = Outcome(PathSource(tmp_path), [Kept(Read("a", 0, 10))])
    (error,) = outcome.errors
    assert isinstance(error, StoreError)
    assert f"{tmp_path}/a: " in str(error)
    assert outcome.counts.retries == 0


def test_a_file_cut_short_and_restored_is_opened_again(tmp_path: Path) -> None:
    source, scratch = PathSource(tmp_path), Scratch()
    (tmp_path / "a").write_bytes(BYTES[:5])
    (tmp_path / "whole").write_bytes(BYTES)
    with pytest.raises(CorruptShard, match="ends at byte 5"):
        source.read(Read("a", 0, 10), scratch)
    (tmp_path / "whole").replace(tmp_path / "a")
    assert bytes(source.read(Read("a", 0, 10), scratch)) == BYTES[:10]


def test_what_a_late_thread_brings_is_thrown_away(tmp_path: Path) -> None:
    """An abandoned read that comes back after all must neither land nor count."""
    (tmp_path / "a").write_bytes(BYTES)
    release = threading.Event()

    class Slow(PathSource):
        calls = 0

        def read(self, read: Read, scratch: Scratch) -> memoryview:
            Slow.calls += 1
            if Slow.calls == 1:
                release.wait(20)
                scratch.take(10)[:] = b"x" * 10
                return scratch.take(10)
            return super().read(read, scratch)

    part = Kept(Read("a", 0, 10))
    outcome = Outcome(Slow(tmp_path), [part])
    assert (part.landed, outcome.counts.timeouts) == ([BYTES[:10]], 1)
    release.set()
    wait_until(lambda: not stoker_threads())
    assert (part.landed, outcome.counts.requests) == ([BYTES[:10]], 1)


def test_an_error_nobody_foresaw_comes_out_as_it_is(tmp_path: Path) -> None:
    class Broken(PathSource):
        def read(self, read: Read, scratch: Scratch) -> memoryview:
            raise ZeroDivisionError("surprise")

    with pytest.raises(ZeroDivisionError, match="surprise"):
        bring(Broken(tmp_path), [Kept(Read("a", 0, 1))])


@pytest.mark.slow
def test_leaving_the_program_does_not_wait_for_a_stuck_read(proxy: Proxy) -> None:
    code = f"""
        import time
        from tests.loaders.test_fetch import *
        source = open_source("s3://loaders-fetch")
        fetcher = Fetcher(source, 4, FetchCounts(), print)
        for n in range(8):
            fetcher.submit(Kept(Read("a", n, n + 10)), lambda: print("landed"))
        while not fetcher.has_read_younger_than(60):
            time.sleep(0.01)
        {MARK}
    """
    proxy.stall(10_000)
    with leaving(code) as child:
        assert child.waited() < MOST_SECONDS
