"""The documents in a stretch of the stream, by their offsets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.dataset import Stream, open_dataset
from shards.documents import Excerpt, excerpts, kept_columns
from shards.errors import CorruptShard
from tests.datasets import write_dataset

# Cells hold 16,384 tokens: documents shorter and longer than one, and some of no tokens.
LENGTHS = [
    [0, 10, 16_374, 0, 1, 50_000, 0, 0, 7],
    [3],
    [*range(0, 400, 3), 40_000, 0, 5],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "tokens"
    shards = [[np.arange(n, dtype=np.uint32) for n in lengths] for lengths in LENGTHS]
    columns = [
        {"url": pa.array([f"a://{shard}/{n}" for n in range(len(lengths))])}
        for shard, lengths in enumerate(LENGTHS)
    ]
    write_dataset(str(folder), shards, columns=columns)
    return folder


@pytest.fixture(scope="module")
def stream(folder: Path) -> Stream:
    return open_dataset(str(folder)).stream()


def every_excerpt(start: int, stop: int) -> list[tuple[int, int, int, int, int]]:
    """Shard, document, start, stop, tokens of each, found by looking at every document."""
    found, at = [], 0
    for shard, lengths in enumerate(LENGTHS):
        for document, length in enumerate(lengths):
            left, right = max(start, at), min(stop, at + length)
            if left < right:
                found.append((shard, document, left - at, right - at, length))
            at += length
    return found


def told(one: Excerpt) -> tuple[int, int, int, int, int]:
    return one.shard, one.document, one.start, one.stop, one.tokens


TOKENS = sum(map(sum, LENGTHS))


@given(data=st.data())
def test_any_stretch_names_the_documents_that_lie_in_it(stream: Stream, data: Any) -> None:
    start = data.draw(st.integers(0, TOKENS))
    stop = data.draw(st.one_of(st.integers(start, TOKENS), st.just(min(start + 64, TOKENS))))
    assert [told(one) for one in excerpts(stream, start, stop)] == every_excerpt(start, stop)


def test_a_stretch_outside_of_the_stream_is_refused(stream: Stream) -> None:
    with pytest.raises(IndexError, match="of a stream of"):
        excerpts(stream, 0, TOKENS + 1)


def test_changed_offsets_are_found(tmp_path: Path) -> None:
    documents = [np.arange(n, dtype=np.uint32) for n in (5, 6, 7)]
    write_dataset(str(tmp_path / "d"), [documents])
    stream = open_dataset(str(tmp_path / "d")).stream()
    path = tmp_path / "d" / stream.dataset.path(0)
    data = bytearray(path.read_bytes())
    data[int(stream.dataset.index.documents_at[0]) + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=f"{path.name}: the checksum of its documents 0-2"):
        excerpts(stream, 0, 8)


def test_kept_columns_are_read_without_the_tokens(
    folder: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stream.dataset.store
    read, original = [], type(store).read

    def counting(self: Any, key: str, start: int = 0, stop: int | None = None) -> bytes:
        data = original(self, key, start, stop)
        read.append(len(data))
        return data

    monkeypatch.setattr(type(store), "read", counting)
    batch = kept_columns(stream.dataset, 2)
    assert batch is not None
    assert batch.to_pylist() == [{"url": f"a://2/{n}"} for n in range(len(LENGTHS[2]))]
    assert sum(read) < (folder / stream.dataset.path(2)).stat().st_size / 4


def test_a_dataset_without_kept_columns_has_none(tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "d"), [[np.arange(9, dtype=np.uint16)]])
    assert kept_columns(open_dataset(str(tmp_path / "d")), 0) is None
