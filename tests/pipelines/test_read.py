"""Reading: each row once however files are cut, bad rows apart, damage fatal."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import files, read_lines
from pipelines.inputs import Input, find_inputs
from pipelines.options import ReadOptions
from pipelines.plan import Slice, cut_units
from pipelines.read import SAMPLE_BYTES, BadRow, read_slice, read_unit
from shards.errors import StokerError
from tests.servers import S3Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


def one_input(path: Path, format: str = "auto") -> Input:
    [found] = find_inputs([str(path)], format)
    return found


def rows(
    path: Path,
    *,
    unit_bytes: int = 1 << 30,
    column: str = "text",
    split: str = "file",
    format: str = "auto",
) -> tuple[list[str], list[BadRow]]:
    """All documents and bad rows of a file, cut into units of about `unit_bytes`."""
    documents: list[str] = []
    bad: list[BadRow] = []
    for unit in cut_units([one_input(path, format)], unit_bytes, ReadOptions(column, split)):
        for batch in read_unit(unit, ReadOptions(column, split)):
            documents.extend(batch.documents.to_pylist())
            bad.extend(batch.bad)
            assert batch.documents.type == pa.large_string()
            assert batch.documents.null_count == 0
    return documents, bad


def slices_at(whole: Input, cuts: list[int]) -> Iterator[Slice]:
    """The file cut at these bytes, whatever they are."""
    borders = sorted({0, whole.size, *(min(cut, whole.size) for cut in cuts)})
    if len(borders) == 1:
        borders *= 2
    for start, stop in pairwise(borders):
        yield Slice(whole.uri, start, stop, whole.size, whole.etag, whole.format, whole.compression)


# --- lines -------------------------------------------------------------------------------------

line = st.text(st.sampled_from("ab\u2028\x85\x0b\x0c\r é😀"), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(line, max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    end=st.booleans(),
)
def test_any_cut_gives_each_line_once(
    lines: list[str], cuts: list[int], end: bool, folder: Path
) -> None:
    path = folder / "lines.txt"
    text = "".join(f"{one}\n" for one in lines)
    path.write_bytes((text if end else text.removesuffix("\n")).encode())
    expected = [one.removesuffix("\r") for one in lines]
    if not end and lines and lines[-1] == "":
        expected.pop()
    got = [
        text
        for piece in slices_at(one_input(path), cuts)
        for batch in read_slice(piece, ReadOptions(text_split="line"))
        for text in batch.documents.to_pylist()
    ]
    assert got == expected


def test_a_line_belongs_to_the_slice_in_which_its_first_byte_lies(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("ab\ncd\nef\n")
    for cut, first in ((3, ["ab"]), (4, ["ab", "cd"]), (2, ["ab"]), (6, ["ab", "cd"])):
        [before, _] = slices_at(one_input(path), [cut])
        [batch] = read_slice(before, ReadOptions(text_split="line"))
        assert batch.documents.to_pylist() == first, cut


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(line, max_size=10), size=st.integers(1, 40))
def test_json_lines_give_the_same_documents_for_any_unit_size(
    texts: list[str], size: int, folder: Path
) -> None:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    )
    assert rows(path, unit_bytes=size) == (texts, [])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_a_line_may_span_any_number_of_reads(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", chunk)
    monkeypatch.setattr(read_lines, "_SEARCH_BYTES", chunk)
    texts = ["", "x" * 50, "é" * 20, "", "end"]
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    assert rows(tmp_path / "a.jsonl", unit_bytes=13) == (texts, [])
    assert rows(tmp_path / "a.jsonl.gz") == (texts, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"text": "cut', "malformed JSON: unexpected end of data at its character 13"),
        (b'{"text": NaN}', "malformed JSON"),
        (b'{"text": "\xff\xfe"}', "invalid UTF-8: invalid start byte at its byte 10"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"body": "x"}', "no field 'text'"),
        (b'{"text": null}', "null, not a string"),
        (b'{"text": 5}', "a number, not a string"),
        (b'{"text": ["x"]}', "an array, not a string"),
        (b'["text"]', "an array, not an object"),
        (b"null", "null, not an object"),
    ],
)
def test_a_bad_line_is_set_apart_with_place_and_reason(
    text: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + text + b'\n{"text": "also good"}')
    documents, bad = rows(path)
    assert documents == ["good", "also good"]
    [row] = bad
    assert reason in row.reason
    assert (row.uri, row.place) == (str(path), "line at byte 17")
    assert row.sample == text.decode("utf-8", "replace")


def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}\r\n')
    assert rows(path) == (["a", "b"], [])


def test_the_place_of_a_bad_line_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "x"}\n' if i % 3 else b"oops\n" for i in range(40)))
    whole = rows(path)
    assert len(whole[1]) == 14
    assert rows(path, unit_bytes=17) == whole
    assert rows(path, unit_bytes=1) == whole


def test_a_sample_of_a_bad_row_is_short_and_valid(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xff" * 1000 + b"\n" + "é".encode() * 1000)
    _, bad = rows(path)
    assert all(0 < len(row.sample.encode()) <= SAMPLE_BYTES for row in bad)


def test_a_field_is_found_inside_objects_and_by_its_whole_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": {"b": {"c": "deep"}}}\n{"a.b.c": "flat"}\n{"a": {"b": 1}}\n')
    documents, bad = rows(path, column="a.b.c")
    assert documents == ["deep", "flat"]
    assert [row.reason for row in bad] == ["no field 'a.b.c'"]


def test_text_that_is_not_utf8_is_set_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\nb\xffd\nfine again")
    documents, bad = rows(tmp_path / "a.txt", split="line")
    assert documents == ["fine", "fine again"]
    assert [(row.place, row.reason[:13]) for row in bad] == [("line at byte 5", "invalid UTF-8")]
    documents, bad = rows(tmp_path / "a.txt")
    assert documents == []
    assert bad[0].place == "the whole file"


def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    text = "\ufeff a\r\n\n b\u2028\x00 \n\n"
    (tmp_path / "a.md").write_bytes(text.encode())
    assert rows(tmp_path / "a.md", unit_bytes=3) == ([text], [])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_document_above_the_limit_is_an_error_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_lines, "LARGEST_DOCUMENT", 1000)
    monkeypatch.setattr(files, "READ_BYTES", 300)
    path = tmp_path / name
    path.write_bytes(b'{"text": "ok"}\n' + b"x" * 2000)
    with pytest.raises(StokerError, match="longer than") as caught:
        rows(path, unit_bytes=300)
    assert str(path) in str(caught.value)


# --- compressed --------------------------------------------------------------------------------

COMPRESS: dict[str, Any] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_lines_are_the_same_documents(suffix: str, tmp_path: Path) -> None:
    texts = [f"text {i} \u2028 é" * (i % 7) for i in range(3000)]
    halves = [
        "".join(json.dumps({"text": text}) + "\n" for text in part).encode()
        for part in (texts[:1000], texts[1000:])
    ]
    path = tmp_path / f"a.jsonl{suffix}"
    # Members one after the other, an empty one too, as `cat`, pigz -i, pzstd, pbzip2 leave them.
    path.write_bytes(b"".join(COMPRESS[suffix](half) for half in [b"", halves[0], b"", halves[1]]))
    assert rows(path, unit_bytes=100) == (texts, [])


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(("member", "keep"), [(0, 0.0), (0, 0.5), (0, 0.999), (1, 0.7)])
def test_a_truncated_compressed_file_is_fatal_and_named(
    suffix: str, member: int, keep: float, tmp_path: Path
) -> None:
    lines = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(1000))
    whole = COMPRESS[suffix](lines.encode())
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole * member + whole[: int(len(whole) * keep)])
    with pytest.raises(StokerError, match=r"damaged|is empty") as caught:
        rows(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_unfolds_a_thousandfold_is_read_piece_by_piece(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", 1 << 16)
    path = tmp_path / f"bomb.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](b"a line\n" * 1_000_000))
    [unit] = cut_units([one_input(path)], 1 << 30, ReadOptions(text_split="line"))
    sizes = [batch.documents.nbytes for batch in read_unit(unit, ReadOptions(text_split="line"))]
    assert max(sizes) < 1 << 18


# --- Parquet -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 5), max_size=6), cuts=st.lists(st.integers(0, 3000), max_size=5)
)
def test_any_cut_gives_each_row_group_once(
    groups: list[int], cuts: list[int], folder: Path
) -> None:
    path = folder / "groups.parquet"
    texts: list[str] = []
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("text", pa.string())])) as writer:
        for size in groups:
            new = [f"row {len(texts) + i}" for i in range(size)]
            writer.write_table(pa.table({"id": range(size), "text": new}, schema=writer.schema))
            texts.extend(new)
    got = [
        text
        for piece in slices_at(one_input(path), cuts)
        for batch in read_slice(piece, ReadOptions(text_split="file"))
        for text in batch.documents.to_pylist()
    ]
    assert got == texts


def test_units_share_the_row_groups_of_a_file_evenly(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i:01000}" for i in range(800)]}), path, row_group_size=10)
    units = list(cut_units([one_input(path)], path.stat().st_size // 4 + 1))
    counts = [sum(b.rows for b in read_unit(unit, ReadOptions())) for unit in units]
    assert sum(counts) == 800
    assert len(counts) == 4
    assert max(counts) - min(counts) <= 20


def test_damage_in_the_footer_is_fatal_and_ends_no_process(tmp_path: Path) -> None:
    """pyarrow's own metadata of a column ends the process where its histogram is damaged."""
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"text": [f"row {i}" for i in range(40)], "page": [{"n": i} for i in range(40)]}
    )
    pq.write_table(table, path, row_group_size=10)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    errors: list[str] = []
    for at in range(footer, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 3]) + whole[at + 1 :])
        try:
            rows(path)
        except StokerError as error:
            errors.append(str(error))
    assert len(errors) > 50
    assert all(str(path) in error for error in errors)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_a_text_column_of_any_arrow_type_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    texts = ["a", "", "é😀", "a"]
    pq.write_table(pa.table({"text": pa.array(texts).cast(kind)}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == (texts, [])


def test_nulls_and_invalid_text_in_parquet_are_set_apart_by_row(tmp_path: Path) -> None:
    values = pa.array([b"a", None, b"\xff", b"", b"\xed\xa0\x80", b"z"], pa.binary())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values.view(pa.string())}), path, row_group_size=2)
    documents, bad = rows(path, unit_bytes=50)
    assert documents == ["a", "", "z"]
    assert [(row.place, row.reason.split(":")[0]) for row in bad] == [
        ("row 1", "null instead of text"),
        ("row 2", "invalid UTF-8"),
        ("row 4", "invalid UTF-8"),
    ]


def test_a_column_inside_structs_is_read_and_a_null_struct_is_a_null(tmp_path: Path) -> None:
    table = pa.table(
        {"page": [{"body": {"text": "x"}}, None, {"body": None}, {"body": {"text": "y"}}]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    documents, bad = rows(tmp_path / "a.parquet", column="page.body.text")
    assert documents == ["x", "y"]
    assert [row.place for row in bad] == ["row 1", "row 2"]


def test_a_missing_column_is_an_error_that_lists_the_columns_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "meta": [{"url": "u"}]}), path)
    with pytest.raises(StokerError, match=r"no column 'text': it has body, meta\.url"):
        rows(path)
    pq.write_table(pa.table({"text": [1]}), path)
    with pytest.raises(StokerError, match="is int64, not text"):
        rows(path)


def test_a_damaged_parquet_file_is_fatal_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [os.urandom(50).hex() for _ in range(2000)]}), path)
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StokerError, match="damaged") as caught:
        rows(path)
    assert str(path) in str(caught.value)
    whole[len(whole) // 3 : len(whole) // 3 + 3000] = bytes(3000)
    path.write_bytes(whole)
    with pytest.raises(StokerError, match="damaged"):
        rows(path)


def test_a_flipped_bit_in_a_page_with_a_checksum_is_fatal_though_it_decodes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"row {i:04}" for i in range(1000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"row 0500") + 2] ^= 1
    path.write_bytes(data)
    assert pq.read_table(path) != table
    with pytest.raises(StokerError, match=r"a\.parquet is damaged"):
        rows(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.gz", "a.txt.zst", "a.txt.bz2"])
def test_no_bytes_at_all_are_damage_where_a_format_has_some_for_nothing(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(StokerError, match=rf"{name} is (damaged|no \w+ file)"):
        rows(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "b.txt", "c.parquet"])
def test_an_empty_file_is_fine(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        path.touch()
    documents, bad = rows(path)
    # An empty text file is an empty document.
    assert (documents, bad) == ([""] if name == "b.txt" else [], [])


# --- changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_input_that_changes_after_the_plan_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["x"]}), path)
    else:
        path.write_text('{"text": "x"}\n')
    planned = one_input(path)
    os.utime(path, ns=(1, 1))
    [piece] = slices_at(planned, [])
    with pytest.raises(StokerError, match="changed since the plan"):
        list(read_slice(piece, ReadOptions(text_split="file")))


def test_an_input_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", 64)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' * 100)
    [piece] = slices_at(one_input(path), [])
    batches = read_slice(piece, ReadOptions(text_split="file"))
    next(batches)
    os.utime(path, ns=(1, 1))
    with pytest.raises(StokerError, match="changed since the plan"):
        list(batches)


@pytest.mark.parametrize("how", ["replaced", "shortened", "emptied", "removed"])
def test_an_object_that_changes_after_the_plan_is_an_error(how: str, s3: S3Server) -> None:
    uri = f"{s3.bucket('changing')}/a.jsonl"
    path = s3.path(uri)
    path.write_text('{"text": "x"}\n' * 9)
    [planned] = find_inputs([uri])
    if how == "removed":
        path.unlink()
    else:
        path.write_text('{"text": "y"}\n' * {"replaced": 9, "shortened": 5, "emptied": 0}[how])
    [piece] = slices_at(planned, [])
    with pytest.raises(StokerError, match=r"s3://changing/a\.jsonl changed since the plan"):
        list(read_slice(piece, ReadOptions(text_split="file")))


def test_a_removed_input_is_an_error_and_not_a_missing_document(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n')
    [piece] = slices_at(one_input(path), [])
    path.unlink()
    with pytest.raises(StokerError, match="can't be read"):
        list(read_slice(piece, ReadOptions(text_split="file")))


def test_progress_ends_at_the_size_of_the_unit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * 1000}), tmp_path / "a.parquet", row_group_size=100)
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n' * 100)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 100))
    [unit] = cut_units(find_inputs([str(tmp_path)]), 1 << 30)
    steps = [batch.done for batch in read_unit(unit, ReadOptions(text_split="file"))]
    assert steps == sorted(steps)
    assert steps[-1] == unit.bytes


def test_each_document_has_a_place_and_bad_rows_before_it_count(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b"oops", b'{"text": "two"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "b.txt").write_bytes(b"one\n\xff\ntwo")
    values = pa.array([b"one", None, b"two"], pa.binary())
    pq.write_table(pa.table({"text": values}), tmp_path / "c.parquet", row_group_size=1)
    expected = {
        "a.jsonl": ["line at byte 0", "line at byte 21"],
        "b.txt": ["line at byte 0", "line at byte 6"],
        "c.parquet": ["row 0", "row 2"],
    }
    for name, places in expected.items():
        path = tmp_path / name
        [unit] = cut_units([one_input(path)], 1 << 30, ReadOptions(text_split="line"))
        found = [
            batch.place(number)
            for batch in read_unit(unit, ReadOptions(text_split="line"))
            for number in range(len(batch.documents))
        ]
        assert found == [f"{path} {place}" for place in places]
