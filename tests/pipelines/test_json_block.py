"""Blocks of JSON lines: Arrow's reading of them is that of the lines one by one, or is not used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import read_jsonl
from pipelines.inputs import find_inputs
from pipelines.json_block import JsonBlock, JsonBlocks
from pipelines.options import ReadOptions
from pipelines.plan import Slice, cut_units
from pipelines.read import Batch, read_slice

KEPT = pa.schema(
    [("n", pa.int64()), ("x", pa.float64()), ("b", pa.bool_()), ("s", pa.large_string())]
)
PIECE = Slice("file", 0, 0, 0, "", "jsonl", "")


def by_lines(block: bytes, reading: ReadOptions) -> Batch:
    return read_jsonl._Lines("file", PIECE, reading).read(block, 0, 0)


def assert_same_or_not_used(block: bytes, reading: ReadOptions) -> JsonBlock | None:
    at_once = JsonBlocks(reading).read(block)
    if at_once is not None:
        one_by_one = by_lines(block, reading)
        assert one_by_one.bad == ()
        assert at_once.documents.equals(one_by_one.documents)
        assert at_once.columns == one_by_one.columns
        places = [one_by_one.place(i) for i in range(len(at_once.documents))]
        assert places == [f"file line at byte {start}" for start in at_once.starts]
    return at_once


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.sampled_from(["NaN", "a, Inf]", ": Infinity ", "}\n{", "x" * 300]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=3,
)
rows = st.fixed_dictionaries(
    {"text": st.text(max_size=12)},
    optional={"n": values, "x": values, "b": values, "s": values, "other": values},
)
odd_bytes = st.sampled_from(
    [
        b"",
        b"\r",
        b" ",
        b"{",
        b"}",
        b",",
        b"\n",
        b"\xff",
        b"NaN",
        b"-Inf",
        b"null",
        b'"',
        b"\\",
        b"0",
        b"1e999",
    ]
)


@settings(max_examples=120, deadline=None)
@given(
    some=st.lists(rows, min_size=1, max_size=4),
    ascii=st.booleans(),
    at=st.integers(0, 300),
    odd=odd_bytes,
    kept=st.booleans(),
)
def test_a_block_is_read_as_its_lines_are_or_left_to_them(
    some: list[dict[str, Any]], ascii: bool, at: int, odd: bytes, kept: bool
) -> None:
    lines = (json.dumps(row, ensure_ascii=ascii).encode() for row in some)
    block = b"\n".join(lines)
    at %= len(block) + 1
    reading = ReadOptions(columns=KEPT if kept else None)
    assert_same_or_not_used(block[:at] + odd + block[at:], reading)


@pytest.mark.parametrize(
    "block",
    [
        b'{"text":"a"} {"text":"b"}\n{"text":\n"c"}',
        b'{"text":"a"}\n{"text":"b"} {"text":"c"}\n{"x":{}\n}',
        b'{"text":"a"}\r{"text":"b"}',
        b'{"text":"a","x":NaN}',
        b'{"text":"a","x":[1,\t-Infinity]}',
        b'{"text":"a","y":"\xff"}',
        b'{"text":"a","y":"\\ud800"}',
        b'{"text":"a","text":"b"}',
        b'{"text":"a"}\n\n{"text":"b"}',
        b'{"text":"a"}\n{"text":null}',
        b'{"text":"a"}\n{"body":"b"}',
        b'{"text":"a","x":9007199254740993}',
        b'{"text":"a","n":1.0}',
        b'{"text":"a","s":5}',
        b"",
        b"{",
        b"}",
        b"{}",
    ],
)
def test_what_arrow_would_read_otherwise_is_left_to_the_lines(block: bytes) -> None:
    assert JsonBlocks(ReadOptions(columns=KEPT)).read(block) is None
    if b'"x":9' not in block and b'"n"' not in block and b'"s"' not in block:
        assert JsonBlocks(ReadOptions()).read(block) is None


def test_ordinary_lines_are_read_at_once_with_their_columns() -> None:
    text = 'Information, Infinity Ward: NaN-proof, é😀 "q" \\ \u2028\x85\x0b'
    some: list[dict[str, Any]] = [
        {"text": text, "n": i, "x": i / 2, "b": i > 1, "s": None, "o": [{}]} for i in range(4)
    ]
    block = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in some).encode()
    read = assert_same_or_not_used(block, ReadOptions(columns=KEPT))
    assert read is not None
    assert read.documents.to_pylist() == [text] * 4


def test_dotted_names_are_left_to_the_lines() -> None:
    assert JsonBlocks(ReadOptions("a.b")).read(b'{"a.b": "x"}') is None


def test_a_bad_line_costs_none_of_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.files.READ_BYTES", 400)
    path = tmp_path / "a.jsonl"
    good = [f'{{"text": "row {i}"}}\n' for i in range(100)]
    path.write_text("".join([*good[:50], "oops\n", *good[50:]]))
    [unit] = cut_units(find_inputs([str(path)]), 1 << 30)
    batches = list(read_slice(unit.slices[0], ReadOptions()))
    texts = [text for batch in batches for text in batch.documents.to_pylist()]
    assert texts == [f"row {i}" for i in range(100)]
    [bad] = [row for batch in batches for row in batch.bad]
    assert bad.place == f"line at byte {len(''.join(good[:50]))}"
    places = [batch.place(i) for batch in batches for i in range(len(batch.documents))]
    starts = [0]
    for line in [*good[:50], "oops\n", *good[50:-1]]:
        starts.append(starts[-1] + len(line))
    del starts[50]
    assert places == [f"{path} line at byte {start}" for start in starts]
