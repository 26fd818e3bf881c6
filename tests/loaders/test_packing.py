"""Packing by best fit: every token once, no document cut that fits in a row, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.packing import Pack, cut, pack

LENGTHS = st.lists(st.integers(0, 40), max_size=60).map(lambda some: np.array(some, np.int64))


@given(lengths=LENGTHS, seq_len=st.integers(1, 16))
def test_the_pieces_are_the_stream_and_only_long_documents_are_cut(lengths, seq_len) -> None:
    pieces = cut(lengths, seq_len)
    assert pieces.start.tolist() == (np.cumsum(pieces.length) - pieces.length).tolist()
    assert pieces.length.sum() == lengths.sum()
    assert np.bincount(pieces.document, minlength=len(lengths)).tolist() == [
        -(-length // seq_len) for length in lengths.tolist()
    ]
    assert ((pieces.length > 0) & (pieces.length <= seq_len)).all()


@given(lengths=LENGTHS, seq_len=st.integers(1, 16), before=st.integers(0, 3))
def test_a_document_that_began_in_the_pack_before_goes_on_where_it_was_cut(
    lengths, seq_len, before
) -> None:
    begin = before * seq_len
    if not begin or (len(lengths) and begin < lengths[0]):
        whole, rest = cut(lengths, seq_len), cut(lengths, seq_len, begin)
        assert rest.start.tolist() == whole.start[before:].tolist()
        assert rest.length.tolist() == whole.length[before:].tolist()
        assert rest.document.tolist() == whole.document[before:].tolist()
    else:
        with pytest.raises(ValueError, match=f"begin={begin}"):
            cut(lengths, seq_len, begin)


def rows_of(lengths: np.ndarray, packed: Pack) -> list[list[tuple[int, int]]]:
    """Of each row the (column, length) of its pieces, in stream order."""
    rows: list[list[tuple[int, int]]] = [[] for _ in range(packed.rows)]
    places = zip(packed.row.tolist(), packed.column.tolist(), lengths.tolist(), strict=False)
    for row, column, length in places:
        rows[row].append((column, length))
    return rows


@given(
    lengths=st.lists(st.integers(1, 16), max_size=80).map(lambda some: np.array(some, np.int64)),
    rows=st.integers(1, 20),
)
def test_pieces_fill_rows_from_the_left_without_overlap_and_without_a_gap(lengths, rows) -> None:
    packed = pack(lengths, 16, rows)
    assert packed.rows <= rows
    assert len(packed.row) >= min(rows, len(lengths))
    assert packed.rows == rows or len(packed.row) == len(lengths), "no row is left empty"
    for row in rows_of(lengths, packed):
        ends = np.cumsum([length for _, length in row])
        assert [column for column, _ in row] == [0, *ends[:-1].tolist()]
        assert 0 < ends[-1] <= 16


@given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=80))
def test_no_two_rows_could_be_one(lengths) -> None:
    packed = pack(np.array(lengths), 16, len(lengths))
    assert len(packed.row) == len(lengths)
    filled = np.bincount(packed.row, weights=lengths)
    assert (np.sort(filled)[:2].sum() > 16) or packed.rows == 1
    fewest = -(-sum(lengths) // 16)
    assert packed.rows <= 11 / 9 * max(fewest, sum(length > 8 for length in lengths)) + 4


def test_natural_lengths_leave_little_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 4000).astype(np.int64) + 1
    pieces = cut(lengths, 2048)
    packed = pack(pieces.length, 2048, 512)
    taken = pieces.length[: len(packed.row)].sum()
    assert packed.rows == 512
    assert taken / (512 * 2048) > 0.98


def test_how_documents_are_packed_never_changes() -> None:
    """A run that is resumed with another version of this code must see the same rows."""
    packed = pack(np.array([5, 9, 16, 3, 7, 7, 2, 11, 4, 1], np.int64), 16, 4)
    assert packed.row.tolist() == [1, 2, 0, 3, 2, 3, 3, 1, 3]
    assert packed.column.tolist() == [0, 0, 0, 0, 9, 3, 10, 5, 12]
