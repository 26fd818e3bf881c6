"""Blocks on a local disk: exact or absent, bounded over processes, and never believed."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import TokenDataset
from loaders.cache import DiskCache, _locked
from loaders.schedule import Run
from loaders.source import Read, Scratch
from loaders.stats import FetchCounts
from shards.errors import StoreError
from tests.faulty_s3 import Fault, FaultyS3, faulty_s3, first, of_shards
from tests.loaders.support import Modes, first_tokens, token_dataset, token_loader, wait_until
from tests.servers import S3Server

SEQ_LEN = 64


def cache_in(folder: Path, limit: int, dataset: str = "d") -> DiskCache:
    return DiskCache(folder, limit, dataset, FetchCounts())


def block(number: int, size: int) -> tuple[Read, bytes]:
    return Read(f"shards/{number}", 0, size), random.Random(f"{number} {size}").randbytes(size)


def held(cache: DiskCache, read: Read) -> bytes | None:
    data = cache.get(read, Scratch())
    return None if data is None else bytes(data)


def files(folder: Path) -> dict[str, int]:
    """Names and sizes of what lies in the cache's folder, blocks alone."""
    found = {}
    for path in folder.glob("*/blocks/*/*"):
        try:
            found[path.name] = path.stat().st_size
        except FileNotFoundError:  # it was evicted just now
            continue
    return found


def counted(folder: Path) -> int:
    """What the cache believes it holds."""
    return int((folder / "stoker-cache-v1" / "size").read_text())


# Alone.


def test_what_was_put_comes_back_and_nothing_else(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 1000)
    read, data = block(1, 100)
    assert held(cache, read) is None
    cache.put(read, data)
    assert held(cache, read) == data
    assert held(cache, Read(read.key, 0, 99)) is None
    assert held(cache_in(tmp_path, 1000, dataset="another"), read) is None
    assert held(cache_in(tmp_path, 1000), read) == data
    cache.drop(read)
    assert held(cache, read) is None


@given(
    limit=st.integers(1, 400),
    uses=st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60),
)
def test_the_least_recently_used_go_first_and_the_bound_holds(
    limit: int, uses: list[tuple[bool, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = cache_in(folder, limit)
        used: list[int] = []  # numbers of the blocks, the latest use last
        for is_put, number in uses:
            # A block's size follows from its number.
            read, data = block(number, 10 + 7 * number)
            if is_put:
                cache.put(read, data)
            elif held(cache, read) not in (data, None):
                pytest.fail("other bytes came back")
            if held(cache, read) is not None:
                used = [other for other in used if other != number] + [number]
            there = files(folder)
            assert sum(there.values()) == counted(folder) if there else True
            assert sum(there.values()) <= limit
            assert is_put <= (len(data) > limit or held(cache, read) == data)
            # What is left are those used last.
            left = [n for n in used if held(cache, block(n, 10 + 7 * n)[0]) is not None]
            assert left == used[len(used) - len(left) :]
            used = left


def test_one_eviction_makes_room_for_many_blocks(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 10_000)
    for number in range(101):
        cache.put(*block(number, 100))
    assert 8_900 <= sum(files(tmp_path).values()) <= 9_100


def test_a_block_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 99)
    read, data = block(1, 100)
    cache.put(read, data)
    assert held(cache, read) is None
    assert not files(tmp_path)


@pytest.mark.parametrize("size", [50, 150])
def test_a_file_of_another_size_is_no_block(tmp_path: Path, size: int) -> None:
    cache = cache_in(tmp_path, 1000)
    read, data = block(1, 100)
    cache.put(read, data)
    (path,) = tmp_path.glob("*/blocks/*/*")
    os.truncate(path, size)
    assert held(cache, read) is None


def test_a_deleted_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = cache_in(folder, 1000)
    cache.put(*block(1, 100))
    shutil.rmtree(folder)
    read, data = block(2, 100)
    assert held(cache, read) is None
    cache.put(read, data)  # finds that there is no folder
    cache.put(read, data)
    assert held(cache, read) == data
    assert sum(files(folder).values()) == counted(folder) == 100


def test_files_deleted_by_hand_are_noticed_at_the_next_eviction(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 1000)
    for number in range(10):
        cache.put(*block(number, 100))
    for path in tmp_path.glob("*/blocks/*/*"):
        path.unlink()
    read, data = block(11, 100)
    cache.put(read, data)
    assert held(cache, read) == data
    assert counted(tmp_path) == 100


def test_a_count_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 1000)
    cache.put(*block(1, 100))
    (tmp_path / "stoker-cache-v1" / "size").write_text("\0\0\0\0")
    cache.put(*block(2, 100))
    assert counted(tmp_path) == 200


def test_a_full_disk_is_said_once_and_nothing_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    counts = FetchCounts()
    cache = DiskCache(tmp_path, 1000, "d", counts)
    monkeypatch.setattr("loaders.cache._PAUSE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("loaders.cache._write", full)
        for number in range(3):
            cache.put(*block(number, 100))
    assert counts.cache_failures == 3
    (line,) = (one.getMessage() for one in caplog.records)
    assert str(tmp_path) in line
    assert "(the disk is full)" in line
    assert not files(tmp_path)
    assert counted(tmp_path) == 0
    read, data = block(4, 100)
    cache.put(read, data)
    assert held(cache, read) == data


def test_only_the_owner_can_read_the_folder(tmp_path: Path) -> None:
    cache_in(tmp_path / "new", 1000).put(*block(1, 100))
    inner = tmp_path / "new" / "stoker-cache-v1"
    assert inner.stat().st_mode & 0o777 == 0o700
    (path,) = tmp_path.glob("new/*/blocks/*/*")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cache_dir=.*file/cache'"):
        cache_in(tmp_path / "file" / "cache", 1000)


# With other processes. Each runs `_CHILD`: puts and gets at random, and says what it saw.

_CHILD = """
    import json, random, sys
    from pathlib import Path
    from tests.loaders.test_cache import block, cache_in, held
    folder, limit, seed, blocks, times = Path(sys.argv[1]), *map(int, sys.argv[2:])
    chance, cache, wrong = random.Random(seed), cache_in(folder, limit), 0
    print("ready", flush=True)
    for _ in range(times):
        read, data = block(chance.randrange(blocks), 20_000)
        found = held(cache, read)
        wrong += found not in (data, None)
        if found is None:
            cache.put(read, data)
    print(json.dumps({"wrong": wrong, "hits": cache._counts.cache_hits,
                      "failures": cache._counts.cache_failures}))
"""


@contextmanager
def children(
    folder: Path, count: int, *, limit: int, blocks: int, times: int
) -> Iterator[list[subprocess.Popen[str]]]:
    arguments = [str(folder), str(limit)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_CHILD), *arguments]
            + [str(number) for number in (seed, blocks, times)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(count)
    ]
    try:
        for child in running:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        yield running
    finally:
        for child in running:
            child.kill()
            child.communicate()


def ends(running: Sequence[subprocess.Popen[str]]) -> list[dict[str, int]]:
    # Not communicate(): it misses what came together with the line that was read before.
    outputs = [child.stdout.read() for child in running if child.stdout is not None]
    assert [child.wait(timeout=120) for child in running] == [0] * len(running)
    return [json.loads(output) for output in outputs]


@pytest.mark.slow
def test_processes_share_the_blocks_and_the_bound(tmp_path: Path) -> None:
    limit, gate = 1_000_000, tmp_path / "stoker-cache-v1" / "gate"
    with children(tmp_path, 4, limit=limit, blocks=70, times=1500) as running:
        while any(child.poll() is None for child in running):
            with _locked(gate, fcntl.LOCK_EX):  # or blocks would come and go under the walk
                assert sum(files(tmp_path).values()) <= limit
            time.sleep(0.01)
        seen = ends(running)
    assert all(one["wrong"] == one["failures"] == 0 for one in seen)
    # 50 of 70 blocks fit: without the others' help each would hit less.
    assert all(one["hits"] > 500 for one in seen)
    assert sum(files(tmp_path).values()) == counted(tmp_path) <= limit


@pytest.mark.slow
def test_processes_killed_in_the_middle_leave_nothing_that_is_believed_or_in_the_way(
    tmp_path: Path,
) -> None:
    limit, blocks = 1_000_000, 70
    for round_ in range(6):
        with children(tmp_path, 3, limit=limit, blocks=blocks, times=10**9) as running:
            before = counted_when_there(tmp_path)
            wait_until(partial(count_has_changed, tmp_path, before))
            time.sleep(0.05 * round_)  # elsewhere in their work every time
            for child in running:
                child.send_signal(signal.SIGKILL)
    # What is being written when it is killed counts: never more than the limit.
    assert sum(files(tmp_path).values()) <= limit
    with children(tmp_path, 2, limit=limit, blocks=blocks, times=1000) as running:
        seen = ends(running)
    assert all(one["wrong"] == one["failures"] == 0 for one in seen)
    assert all(one["hits"] > 300 for one in seen)
    # An eviction has swept up what was left half-written.
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    assert sum(files(tmp_path).values()) == counted(tmp_path) <= limit


def count_has_changed(folder: Path, before: int) -> bool:
    return counted_when_there(folder) != before


def counted_when_there(folder: Path) -> int:
    try:
        return counted(folder)
    except (FileNotFoundError, ValueError):
        return 0


# Under a loader.


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def on_s3(s3: S3Server, proxy: FaultyS3) -> TokenDataset:
    return token_dataset(s3.bucket("loaders-cache") + "/tokens", 36_000, seq_len=SEQ_LEN)


def batches(dataset: TokenDataset, **arguments: Any) -> tuple[list[list[int]], dict[str, Any]]:
    loader = token_loader(dataset, 8, True, **arguments)
    return [first_tokens(batch) for batch in loader], loader.stats()


@pytest.mark.parametrize("mode", Modes)
def test_a_second_run_reads_from_the_disk_alone(
    on_s3: TokenDataset, proxy: FaultyS3, tmp_path: Path, mode: str
) -> None:
    cached = {**Modes[mode], "cache_dir": tmp_path / "cache", "cache_bytes": 1 << 24}
    expected, _ = batches(on_s3, **Modes[mode])
    found, stats = batches(on_s3, **cached)
    assert found == expected
    assert 0 < stats["cache_bytes_written"] <= stats["bytes_read"]
    proxy.behave()
    found, again = batches(on_s3, **cached)
    assert found == expected
    assert again["cache_bytes_read"] == stats["bytes_read"] + stats["cache_bytes_read"]
    assert (again["requests"], again["bytes_read"]) == (0, 0)
    assert not any("/shards/" in line for line in proxy.seen)


def test_rotten_blocks_are_read_from_the_store_again(on_s3: TokenDataset, tmp_path: Path) -> None:
    cached = {**Modes["streaming"], "cache_dir": tmp_path, "cache_bytes": 1 << 24}
    expected, _ = batches(on_s3, **cached)
    for path in tmp_path.glob("*/blocks/*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    found, stats = batches(on_s3, **cached)
    assert found == expected
    assert stats["cache_damaged"] > 0
    assert stats["corrupt_rereads"] == 0
    # They were replaced.
    found, stats = batches(on_s3, **cached)
    assert found == expected
    assert (stats["cache_damaged"], stats["requests"]) == (0, 0)


def test_rotten_blocks_that_cannot_be_deleted_do_no_harm(
    on_s3: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = {"cache_dir": tmp_path, "cache_bytes": 1 << 24}
    expected, _ = batches(on_s3, **cached)
    for path in tmp_path.glob("*/blocks/*/*"):
        path.write_bytes(bytes(path.stat().st_size))
    monkeypatch.setattr(DiskCache, "drop", lambda self, read: None)
    found, stats = batches(on_s3, timeout=60, **cached)
    assert found == expected
    assert stats["cache_damaged"] > 0


def test_bytes_damaged_on_their_way_are_not_kept(
    on_s3: TokenDataset, proxy: FaultyS3, tmp_path: Path
) -> None:
    cached = {"cache_dir": tmp_path, "cache_bytes": 1 << 24}
    expected, _ = batches(on_s3)
    proxy.behave(of_shards(first(1, Fault.CORRUPT)))
    found, stats = batches(on_s3, **cached)
    assert found == expected
    assert stats["corrupt_rereads"] > 0
    found, stats = batches(on_s3, **cached)
    assert found == expected
    assert (stats["cache_damaged"], stats["requests"]) == (0, 0)


def test_a_cache_deleted_in_mid_epoch_makes_it_slower_and_never_wrong(
    on_s3: TokenDataset, tmp_path: Path
) -> None:
    cached = {**Modes["streaming"], "cache_dir": tmp_path / "c", "cache_bytes": 1 << 24}
    expected, _ = batches(on_s3, **cached)
    loader = token_loader(on_s3, 8, True, prefetch_factor=2, **cached)
    found = []
    for step, batch in enumerate(loader):
        found.append(first_tokens(batch))
        if step % 20 == 10:
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
    assert found == expected
    assert loader.stats()["requests"] > 0


def test_a_cache_that_holds_a_part_of_the_data_gives_the_same_batches(
    on_s3: TokenDataset, tmp_path: Path
) -> None:
    cached = {**Modes["streaming"], "cache_dir": tmp_path, "cache_bytes": 200_000}
    loader = token_loader(on_s3, 8, True, **cached)
    plain = token_loader(on_s3, 8, True, **Modes["streaming"])
    for _ in range(2):
        assert [first_tokens(one) for one in loader] == [first_tokens(one) for one in plain]
        assert sum(files(tmp_path).values()) <= 200_000


@pytest.mark.parametrize("streaming", [{}, {"prefetch_bytes": 1 << 20, "lanes": 8}])
def test_a_cache_smaller_than_a_block_is_refused_and_one_as_large_keeps_it(
    tmp_path: Path, streaming: dict[str, Any]
) -> None:
    dataset = token_dataset(str(tmp_path / "tokens"), 600_000, seq_len=SEQ_LEN)
    samples = token_loader(dataset, 8, True, **streaming)._settings.budget.slot_samples
    block = dataset.read_bytes(samples)
    reads = [
        read.stop - read.start
        for first in range(0, dataset.samples - samples, 7)
        for part in dataset.parts(Run(0, first, samples), dataset.rows(samples))
        for read in part.reads
    ]
    assert max(reads) == block
    cached = {**streaming, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match=f"cache_bytes={block - 1} is less than a block, {block} "):
        token_loader(dataset, 8, True, cache_bytes=block - 1, **cached)
    assert not (tmp_path / "cache").exists()
    loader = token_loader(dataset, 8, True, cache_bytes=block, **cached)
    batches = iter(loader)
    next(batches)
    # A block is kept after it was given to the consumer, who doesn't wait for the disk.
    wait_until(lambda: loader.stats()["cache_bytes_written"] > 0)


def test_cache_dir_and_cache_bytes_come_together(on_s3: TokenDataset, tmp_path: Path) -> None:
    for half in ({"cache_dir": tmp_path}, {"cache_bytes": 100}):
        with pytest.raises(ValueError, match="give both, the folder and how many bytes"):
            token_loader(on_s3, 8, **half)
