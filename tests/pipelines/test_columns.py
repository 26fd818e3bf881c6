"""Columns kept beside the text: in line with the documents, of one type in every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inputs import find_inputs
from pipelines.options import ReadOptions
from pipelines.plan import Slice, cut_units
from pipelines.read import BadRow, column_types, read_unit
from shards.errors import StokerError


def first_slice(path: Path) -> Slice:
    [unit] = cut_units(find_inputs([str(path)]), 1 << 30)
    return unit.slices[0]


def kept(
    path: Path, schema: pa.Schema, unit_bytes: int = 1 << 30
) -> tuple[list[tuple[Any, ...]], list[BadRow]]:
    """(text, kept values...) of each document, and the bad rows."""
    rows: list[tuple[Any, ...]] = []
    bad: list[BadRow] = []
    for unit in cut_units(find_inputs([str(path)]), unit_bytes):
        for batch in read_unit(unit, ReadOptions(columns=schema)):
            assert batch.columns is not None
            assert batch.columns.schema == schema
            columns = [column.to_pylist() for column in batch.columns.columns]
            rows.extend(zip(batch.documents.to_pylist(), *columns, strict=True))
            bad.extend(batch.bad)
    return rows, bad


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


values = st.one_of(st.none(), st.integers(-5, 5))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "", None]), values), max_size=20),
    size=st.integers(20, 400),
    parquet=st.booleans(),
)
def test_a_kept_value_stays_beside_its_document_however_files_are_cut(
    rows: list[tuple[str | None, int | None]],
    size: int,
    parquet: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("kept") / ("a.parquet" if parquet else "a.jsonl")
    texts = [None if text is None else f"{text}{i}" for i, (text, _) in enumerate(rows)]
    if parquet:
        years = pa.array([year for _, year in rows], pa.int64())
        table = pa.table({"year": years, "text": pa.array(texts, pa.string())})
        pq.write_table(table, path, row_group_size=3)
    else:
        write_lines(path, *({"text": t, "year": y} for t, (_, y) in zip(texts, rows, strict=True)))
    got, bad = kept(path, pa.schema([("year", pa.int64())]), size)
    good = [(t, y) for t, (_, y) in zip(texts, rows, strict=True) if t is not None]
    assert got == good
    assert len(bad) == len(rows) - len(good)


def test_the_first_file_tells_the_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["x"],
            "page": [{"url": "u", "year": 1}],
            "flag": [True],
            "when": pa.array([0], pa.timestamp("us", "UTC")),
            "kind": pa.array(["k"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    names = ["page.url", "page.year:float", "flag", "when", "kind"]
    schema = column_types(first_slice(tmp_path / "a.parquet"), names)
    assert schema == pa.schema(
        [
            ("page.url", pa.large_string()),
            ("page.year", pa.float64()),
            ("flag", pa.bool_()),
            ("when", pa.timestamp("us", "UTC")),
            ("kind", pa.large_string()),
        ]
    )
    [row], _ = kept(tmp_path / "a.parquet", schema)
    assert row[:4] == ("x", "u", 1.0, True)


def test_json_fields_have_the_type_of_their_values(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "n": None, "x": 1, "meta": {"s": "t"}, "b": True},
        {"text": "b", "n": 5, "x": 0.5, "b": False},
    ]
    path = write_lines(tmp_path / "a.jsonl", "oops\n", *rows)
    schema = column_types(first_slice(path), ["n", "x", "meta.s", "b"])
    assert schema.types == [pa.int64(), pa.float64(), pa.large_string(), pa.bool_()]
    got, bad = kept(path, schema)
    assert got == [("a", None, 1.0, "t", True), ("b", 5, 0.5, None, False)]
    assert len(bad) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "v": 1}, {"text": "b", "v": "x"}], "has int and string values.*v:string"),
        ([{"text": "a", "v": [1]}], "has array values"),
        ([{"text": "a", "v": None}, {"text": "b"}], "has no value"),
    ],
)
def test_a_field_whose_type_cannot_be_told_asks_for_it(
    rows: list[Any], message: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", *rows)
    with pytest.raises(StokerError, match=message):
        column_types(first_slice(path), ["v"])
    schema = column_types(first_slice(path), ["v:string"])
    got, bad = kept(path, schema)
    assert bad == []
    texts = [v if isinstance(v := row.get("v"), str) else v and json.dumps(v) for row in rows]
    assert [row[1] for row in got] == texts


@pytest.mark.parametrize("value", ["x", 1.5, True, 1 << 63, [1], {"a": 1}])
def test_a_row_whose_value_does_not_fit_is_set_apart_with_the_field(
    value: Any, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "a", "v": 1}, {"text": "b", "v": value})
    got, bad = kept(path, pa.schema([("v", pa.int64())]))
    assert got == [("a", 1)]
    assert [row.reason for row in bad] == ["field 'v' is not an integer of 64 bits"]


def test_a_number_that_would_lose_digits_is_set_apart(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "a", "v": (1 << 53) + 1})
    got, bad = kept(path, pa.schema([("v", pa.float64())]))
    assert (got, len(bad)) == ([], 1)


def test_another_type_in_a_later_file_is_fine_if_it_widens_and_else_an_error(
    tmp_path: Path,
) -> None:
    pq.write_table(
        pa.table({"text": ["x"], "v": pa.array([7], pa.int16())}), tmp_path / "b.parquet"
    )
    assert kept(tmp_path / "b.parquet", pa.schema([("v", pa.int64())]))[0] == [("x", 7)]
    assert kept(tmp_path / "b.parquet", pa.schema([("v", pa.large_string())]))[0] == [("x", "7")]
    with pytest.raises(
        StokerError, match=r"b\.parquet: column 'v' is int16, but bool in the job's"
    ):
        kept(tmp_path / "b.parquet", pa.schema([("v", pa.bool_())]))
    pq.write_table(pa.table({"text": ["x"], "v": [1 << 40]}), tmp_path / "b.parquet")
    with pytest.raises(StokerError, match=r"b\.parquet: column 'v' doesn't fit into int32"):
        kept(tmp_path / "b.parquet", pa.schema([("v", pa.int32())]))


def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    table = pa.table({"text": ["x"], "tags": [["a"]], "page": [{"url": "u"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("x")
    for name, names, message in (
        ("a.parquet", ["tags"], "column 'tags' is list.*one value a row"),
        ("a.parquet", ["page"], r"no column 'page': it has text, tags, page\.url"),
        ("a.parquet", ["url"], "no column 'url'.*--keep-columns"),
        ("a.txt", ["url"], r"a\.txt is plain text: it has no column 'url'"),
    ):
        with pytest.raises(StokerError, match=message):
            column_types(first_slice(tmp_path / name), names)


def test_kept_text_that_is_not_utf8_sets_its_row_apart(tmp_path: Path) -> None:
    urls = pa.array([b"a", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": ["x", "y", "z"], "url": urls}), tmp_path / "a.parquet")
    got, bad = kept(tmp_path / "a.parquet", pa.schema([("url", pa.large_string())]))
    assert got == [("x", "a"), ("z", None)]
    assert [(row.place, row.sample) for row in bad] == [("row 1", "y")]
    assert "of a kept column" in bad[0].reason
