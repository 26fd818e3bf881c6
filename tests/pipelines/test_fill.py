"""Documents become shards: with tokens around each, columns beside them, cut where one is full."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.behind import Behind
from pipelines.encode import frame, offsets_of
from pipelines.fill import Form, Shards
from pipelines.plan import Unit
from pipelines.rows import Rows
from shards.receipt import ShardRecord
from shards.store import LocalStore

PLAN = "0123456789abcdef"
BEGIN, END = 60_000, 60_001
LENGTHS = st.lists(st.integers(min_value=0, max_value=5), max_size=20)
AROUND = st.tuples(st.sampled_from([None, BEGIN]), st.sampled_from([None, END]))


def framed(ids: list[int], around: tuple[int | None, int | None]) -> list[int]:
    begin, end = ([] if token is None else [token] for token in around)
    return [*begin, *ids, *end]


@given(
    lengths=LENGTHS,
    before=st.integers(0, 3),
    around=AROUND,
    dtypes=st.sampled_from(["II", "IH", "HH"]),
)
def test_every_document_is_between_its_begin_and_end_token(
    lengths: list[int], before: int, around: tuple[int | None, int | None], dtypes: str
) -> None:
    offsets = offsets_of(np.array([before, *lengths], np.int64))
    ids = np.arange(offsets[-1], dtype=dtypes[0])
    size = sum(len(framed([0] * length, around)) for length in lengths)
    tokens = np.zeros(size, dtypes[1])
    found = frame(offsets[1:], ids, tokens, begin_id=around[0], end_id=around[1])
    assert found[-1] == size
    for (start, stop), (first, last) in zip(pairwise(found), pairwise(offsets[1:]), strict=True):
        assert tokens[start:stop].tolist() == framed(ids[first:last].tolist(), around)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def fill(
    store: LocalStore, form: Form, batches: list[Rows], parts: Iterator[int]
) -> tuple[ShardRecord, ...]:
    with Behind() as behind:
        shards = Shards(store, Unit(3, "web", ()), form, behind, "validation", parts)
        for rows in batches:
            shards.add(rows)
        shards.flush()
        return shards.records()


def rows_of(first: int, lengths: list[int]) -> Rows:
    offsets = offsets_of(np.array(lengths, np.int64))
    names = [f"document {first + n}" for n in range(len(lengths))]
    columns = pa.record_batch({"name": pa.array(names, pa.large_string())})
    return Rows(offsets, np.arange(offsets[-1], dtype=np.uint32) + 100 * first, columns)


@pytest.mark.parametrize("around", [(None, None), (None, END), (BEGIN, None), (BEGIN, END)])
@pytest.mark.parametrize("cut", [1, 4, 10])
def test_the_cut_of_batches_leaves_no_trace_in_shards(
    around: tuple[int | None, int | None], cut: int, store: LocalStore
) -> None:
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    whole = rows_of(0, lengths)
    form = Form(PLAN, np.dtype(np.uint16), 20, *around)
    assert whole.columns is not None
    batches = [
        Rows(
            whole.offsets[first : first + cut + 1],
            whole.ids,
            whole.columns.slice(first, cut),
        )
        for first in range(0, len(lengths), cut)
    ]
    records = fill(store, form, batches, count(1, 2))
    assert [record.part for record in records] == [2 * n + 1 for n in range(len(records))]
    assert {record.split for record in records} == {"validation"}
    assert {record.source for record in records} == {"web"}
    tables = [pa.ipc.open_file(store.read(record.path)).read_all() for record in records]
    found = pa.concat_tables(tables).to_pydict()
    assert found["name"] == [f"document {n}" for n in range(10)]
    assert found["input_ids"] == [
        framed(whole.ids[a:b].tolist(), around) for a, b in pairwise(whole.offsets)
    ]
    limit = 10
    assert all(record.tokens <= limit or record.documents == 1 for record in records)
    firsts = [table["input_ids"][0] for table in tables[1:]]
    assert all(
        record.tokens + len(first) > limit for record, first in zip(records, firsts, strict=False)
    )
