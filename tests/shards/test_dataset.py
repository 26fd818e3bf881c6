"""A dataset is the concatenated stream of its shards, read piece by piece and verified."""

import pickle
from functools import lru_cache
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.dataset import Stream, open_dataset
from shards.errors import CorruptShard, DatasetError
from tests.datasets import write_dataset

LENGTHS = (50_000, 3, 40_000)  # the first and the last are two cells of uint16


@lru_cache
def dataset_uri():
    uri = mkdtemp()
    shards = [
        [np.arange(n, dtype=np.uint16)[:5], np.arange(n, dtype=np.uint16)[5:]] for n in LENGTHS
    ]
    masks = [(np.arange(n) % 3).astype(np.uint8) for n in LENGTHS]
    write_dataset(
        uri,
        [[part for part in shard if len(part)] for shard in shards],
        loss_masks=masks,
        sources=["web", "code", "web"],
    )
    return uri


def read(stream: Stream, start: int, stop: int) -> np.ndarray:
    store, cells = stream.dataset.store, stream.dataset.cells
    parts = [
        piece.tokens(
            store.read(piece.path, piece.byte_start, piece.byte_stop),
            cells.read("tokens_xxh3", piece.cell_start, piece.cell_stop),
        )
        for piece in stream.pieces(start, stop)
    ]
    return np.concatenate(parts) if parts else np.empty(0, stream.dtype)


def read_mask(stream: Stream, start: int, stop: int) -> np.ndarray:
    store, cells = stream.dataset.store, stream.dataset.cells
    return np.concatenate(
        [
            piece.mask(
                store.read(piece.path, piece.mask_start, piece.mask_stop),
                cells.read("loss_mask_xxh3", piece.cell_start, piece.cell_stop),
            )
            for piece in stream.pieces(start, stop)
        ]
    )


@given(st.data())
def test_any_range_of_the_stream_is_exactly_its_tokens_and_their_mask(data):
    stream = open_dataset(dataset_uri()).stream()
    whole = np.concatenate([np.arange(n, dtype=np.uint16) for n in LENGTHS])
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    assert np.array_equal(read(stream, start, stop), whole[start:stop])
    assert np.array_equal(read_mask(stream, start, stop), (whole % 3)[start:stop])


def test_a_source_has_a_stream_of_its_own():
    stream = open_dataset(dataset_uri()).stream(source="web")
    assert stream.tokens == 90_000
    assert read(stream, 49_999, 50_002).tolist() == [49_999, 0, 1]


def test_a_dataset_pickles():
    stream = pickle.loads(pickle.dumps(open_dataset(dataset_uri()).stream()))
    assert read(stream, 0, 3).tolist() == [0, 1, 2]


def test_an_unknown_split_or_source_is_an_error_that_lists_those_there_are():
    dataset = open_dataset(dataset_uri())
    with pytest.raises(DatasetError, match=r"no split 'test'; it has train"):
        dataset.stream("test")
    with pytest.raises(DatasetError, match=r"no source 'books'.*it has code, web"):
        dataset.stream(source="books")


def test_one_flipped_byte_in_what_was_read_is_an_error_that_names_shard_and_range():
    stream = open_dataset(dataset_uri()).stream()
    (piece,) = stream.pieces(40_000, 40_001)
    data = bytearray(stream.dataset.store.read(piece.path, piece.byte_start, piece.byte_stop))
    data[-1] ^= 1
    with pytest.raises(CorruptShard, match=rf"{piece.path} bytes \d+-{piece.byte_stop}: .*differs"):
        piece.tokens(
            data, stream.dataset.cells.read("tokens_xxh3", piece.cell_start, piece.cell_stop)
        )
    with pytest.raises(CorruptShard, match="cut short"):
        piece.tokens(data[:-2], np.zeros(1, np.uint64))


def test_the_id_depends_on_the_content_and_not_on_the_place(tmp_path):
    for name, last in (("a", 7), ("b", 7), ("c", 8)):
        write_dataset(str(tmp_path / name), [[np.array([1, 2, last], np.uint16)]])
    a, b, c = (open_dataset(str(tmp_path / name)).id for name in "abc")
    assert a == b != c
