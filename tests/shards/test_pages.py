"""Memory that is used again holds the same files, and goes to the disk without a copy."""

import fcntl
import mmap
import os
import subprocess
import sys
from typing import IO

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.format import Tokens
from shards.pages import Pages
from shards.store import LocalStore
from shards.writer import build_shard

MIB = 1 << 20


def filled(pages: Pages, size: int) -> pa.Buffer:
    taken = pages.take(size)
    values = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    np.frombuffer(taken, np.uint8)[:size] = values
    return taken.slice(0, size)


def takes_direct(file: IO[bytes]) -> bool:
    """Whether the file system knows direct writes: those of most disks do."""
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:
        return False
    return True


def test_what_was_given_back_is_taken_again_and_begins_at_a_page() -> None:
    pages = Pages()
    first = pages.take(3 * MIB)
    assert (first.address % mmap.PAGESIZE, first.is_mutable) == (0, True)
    second = pages.take(MIB)
    assert second.address != first.address
    pages.give(first.slice(0, 5))
    assert pages.take(2 * MIB).address == first.address


def test_what_is_too_small_makes_room_for_what_is_taken_instead() -> None:
    pages = Pages()
    pages.give(pages.take(MIB))
    large = pages.take(8 * MIB)
    assert large.size >= 8 * MIB
    pages.give(large)
    pages.give(pages.take(MIB))
    assert len(pages._free) == 1


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40), wide=st.booleans())
def test_a_shard_in_pages_that_hold_old_bytes_is_the_same_file(
    lengths: list[int], wide: bool
) -> None:
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    ids = np.arange(offsets[-1])
    tokens: Tokens = ids.astype(np.uint32) if wide else ids.astype(np.uint16)
    pages = Pages()
    dirty = pages.take(MIB)
    np.frombuffer(dirty, np.uint8)[:] = 0xAA
    pages.give(dirty)
    columns = {"url": pa.array([f"u{number}" for number in range(len(lengths))])}
    plain = build_shard(offsets, tokens, columns=columns)
    paged = build_shard(offsets, tokens, columns=columns, pages=pages)
    assert paged.data.address == dirty.address
    assert paged.data == plain.data
    assert paged.xxh3 == plain.xxh3


@pytest.mark.parametrize("more", [0, 1, 4095, 4096, 12345])
def test_whole_pages_go_past_the_page_cache_and_the_rest_follows(
    tmp_path, monkeypatch, more
) -> None:
    seen: list[tuple[bool, int]] = []

    def write(handle: int, data: memoryview) -> int:
        direct = bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)
        seen.append((direct, len(data)))
        return os_write(handle, data)

    with (tmp_path / "probe").open("wb") as file:
        knows_direct = takes_direct(file)
    os_write = os.write
    monkeypatch.setattr(os, "write", write)
    data = filled(Pages(), 2 * MIB + more)
    LocalStore(str(tmp_path)).write("shard", memoryview(data))
    assert (tmp_path / "shard").read_bytes() == data.to_pybytes()
    rest = more % mmap.PAGESIZE
    whole = (knows_direct, 2 * MIB + more - rest)
    assert seen == ([whole, (False, rest)] if rest else [whole])


def test_memory_that_does_not_begin_at_a_page_is_written_all_the_same(tmp_path) -> None:
    data = filled(Pages(), 2 * MIB).slice(7)
    LocalStore(str(tmp_path)).write("shard", memoryview(data))
    assert (tmp_path / "shard").read_bytes() == data.to_pybytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a disk")
def test_a_file_system_that_knows_no_direct_writes_gets_the_same_bytes(tmp_path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "stoker-test", str(tmp_path)], check=True)
    try:
        with (tmp_path / "probe").open("wb") as file:
            assert not takes_direct(file)
        data = filled(Pages(), 2 * MIB + 100)
        LocalStore(str(tmp_path)).write("shard", memoryview(data))
        assert (tmp_path / "shard").read_bytes() == data.to_pybytes()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_forked_child_writes_into_a_copy_of_its_own() -> None:
    code = """
import os
import numpy as np
from shards.pages import Pages

taken = np.frombuffer(Pages().take(10), np.uint8)
if not (child := os.fork()):
    taken[0] = 7
    os._exit(0)
os.waitpid(child, 0)
print(taken[0])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
