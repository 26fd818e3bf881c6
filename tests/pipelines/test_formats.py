"""Arrow, saved datasets, texts between separators: each row once, damage named."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import files, read_arrow, read_lines, read_parquet
from pipelines.inputs import Input, find_inputs
from pipelines.options import Options, ReadOptions
from pipelines.plan import Slice, cut_units, is_divisible
from pipelines.read import BadRow, Batch, check_columns, column_types, read_slice
from shards.errors import StokerError
from tests.servers import S3Server

TEXT = ReadOptions()


def one_input(path: str | Path) -> Input:
    [found] = find_inputs([str(path)])
    return found


def slices(whole: Input, cuts: list[int]) -> list[Slice]:
    """The file cut at these bytes, whatever they are."""
    borders = sorted({0, whole.size, *(min(cut, whole.size) for cut in cuts)})
    pairs = list(pairwise(borders)) or [(0, 0)]
    rest = (whole.size, whole.etag, whole.format, whole.compression)
    return [Slice(whole.uri, start, stop, *rest) for start, stop in pairs]


def batches(
    path: str | Path, reading: ReadOptions = TEXT, cuts: list[int] | None = None
) -> list[Batch]:
    return [b for piece in slices(one_input(path), cuts or []) for b in read_slice(piece, reading)]


def texts(
    path: str | Path, reading: ReadOptions = TEXT, cuts: list[int] | None = None
) -> list[str]:
    found = batches(path, reading, cuts)
    assert not any(batch.bad for batch in found)
    return [text for batch in found for text in batch.documents.to_pylist()]


def bad_rows(path: str | Path, reading: ReadOptions = TEXT) -> list[BadRow]:
    return [row for batch in batches(path, reading) for row in batch.bad]


# --- Arrow -------------------------------------------------------------------------------------


def write_arrow(path: Path, table: pa.Table, rows: int, *, stream: bool) -> Path:
    new: Callable[..., Any] = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 30),
    rows=st.integers(1, 8),
    cuts=st.lists(st.integers(0, 6000), max_size=5),
    stream=st.booleans(),
)
def test_any_cut_of_an_arrow_file_or_stream_gives_each_record_batch_once(
    count: int,
    rows: int,
    cuts: list[int],
    stream: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected = [f"row {i} é" for i in range(count)]
    kinds = pa.array([f"kind {i % 3}" for i in range(count)], pa.string())
    table = pa.table(
        {
            "kind": kinds.dictionary_encode(),
            "text": pa.array(expected, pa.string()),
            "page": [{"n": i} for i in range(count)] or pa.array([], pa.struct({"n": pa.int64()})),
        }
    )
    path = write_arrow(tmp_path_factory.mktemp("a") / "a.arrow", table, rows, stream=stream)
    assert texts(path, cuts=cuts) == expected
    schema = pa.schema([("kind", pa.large_string()), ("page.n", pa.int64())])
    found = batches(path, ReadOptions(columns=schema), cuts)
    kept = [row for batch in found for row in batch.columns.to_pylist()]  # type: ignore[union-attr]
    assert kept == [{"kind": f"kind {i % 3}", "page.n": i} for i in range(count)]


@pytest.mark.parametrize("stream", [False, True])
def test_units_share_an_arrow_file_evenly(stream: bool, tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * 1000] * 800})
    path = write_arrow(tmp_path / "a.arrow", table, 10, stream=stream)
    units = list(cut_units([one_input(path)], path.stat().st_size // 4 + 1))
    counts = [sum(len(b.documents) for s in u.slices for b in read_slice(s, TEXT)) for u in units]
    assert sum(counts) == 800
    assert len(counts) == 4
    assert max(counts) - min(counts) <= 20


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
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_column_of_any_arrow_type_is_read(
    kind: pa.DataType, stream: bool, tmp_path: Path
) -> None:
    table = pa.table({"text": pa.array(["a", "", "é😀", "a"]).cast(kind)})
    path = write_arrow(tmp_path / "a.arrow", table, 3, stream=stream)
    assert texts(path) == ["a", "", "é😀", "a"]


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_files_are_read(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    pyarrow.feather.write_feather(pa.table({"text": ["x"] * 50}), path, compression=compression)
    assert texts(path) == ["x"] * 50


def test_feather_of_the_first_version_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    path.write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(StokerError, match=r"a\.feather is Feather version 1.*write it again"):
        texts(path)


@pytest.mark.parametrize("stream", [False, True])
def test_nulls_and_invalid_text_in_arrow_are_set_apart_by_row(stream: bool, tmp_path: Path) -> None:
    values = pa.array([b"a", None, b"\xff", b"", b"z"], pa.binary()).view(pa.string())
    path = write_arrow(tmp_path / "a.arrow", pa.table({"text": values}), 2, stream=stream)
    rows = bad_rows(path)
    assert [(row.place, row.reason.split(":")[0]) for row in rows] == [
        ("record batch 0 row 1", "null instead of text"),
        ("record batch 1 row 0", "invalid UTF-8"),
    ]
    assert sum(len(batch.documents) for batch in batches(path)) == 3


def test_a_large_record_batch_comes_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_arrow, "BATCH_BYTES", 1000)
    expected = [f"{i:0100}" for i in range(100)]
    path = write_arrow(tmp_path / "a.arrow", pa.table({"text": expected}), 100, stream=False)
    found = batches(path)
    assert len(found) > 9
    assert [text for batch in found for text in batch.documents.to_pylist()] == expected
    assert found[-1].place(0).startswith(f"{path} record batch 0 row 9")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lost", [1, 7, 9, 300, 2000])
def test_a_truncated_arrow_file_is_fatal_and_named(stream: bool, lost: int, tmp_path: Path) -> None:
    table = pa.table({"text": [os.urandom(20).hex() for _ in range(100)]})
    path = write_arrow(tmp_path / "a.arrow", table, 10, stream=stream)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(StokerError, match=r"a\.arrow is damaged, or no Arrow file"):
        texts(path)


def test_a_stream_cut_between_two_messages_is_fatal_though_arrow_reads_it(tmp_path: Path) -> None:
    table = pa.table({"text": ["x"] * 10})
    path = write_arrow(tmp_path / "a.arrow", table, 5, stream=True)
    end = b"\xff\xff\xff\xff\0\0\0\0"
    whole = path.read_bytes()
    path.write_bytes(whole.removesuffix(end))
    assert pa.ipc.open_stream(path.read_bytes()).read_all() == table
    with pytest.raises(StokerError, match="without the mark of its end"):
        texts(path)
    path.write_bytes(whole + whole)
    with pytest.raises(StokerError, match="something follows the end of the stream"):
        texts(path)


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_that_point_outside_are_damage_and_not_a_crash(
    stream: bool, tmp_path: Path
) -> None:
    path = write_arrow(tmp_path / "a.arrow", pa.table({"text": ["abc", "def"]}), 2, stream=stream)
    data = path.read_bytes()
    assert data.count(struct.pack("<3i", 0, 3, 6)) == 1
    for wrong in ((0, 1 << 30, 6), (0, 3, 1 << 30), (0, -5, 6)):
        path.write_bytes(data.replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", *wrong)))
        with pytest.raises(StokerError, match="damaged"):
            texts(path)


@pytest.mark.parametrize("stream", [False, True])
@settings(max_examples=100, deadline=None)
@example(changes=[("text", 0xFF)])
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_no_change_of_bytes_in_an_arrow_file_does_worse_than_an_error(
    stream: bool, changes: list[tuple[int | str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(40)]})
    path = write_arrow(tmp_path_factory.mktemp("a") / "a.arrow", table, 10, stream=stream)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        # The name stands for where it is in the schema.
        place = data.index(at.encode()) if isinstance(at, str) else at % len(data)
        data[place] = value
    path.write_bytes(data)
    try:
        found = batches(path)
    except StokerError:
        return
    for batch in found:
        batch.documents.validate(full=True)


@pytest.mark.parametrize("content", [b"", b"text\n" * 100])
def test_what_is_no_arrow_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(content)
    with pytest.raises(StokerError, match=r"a\.arrow is damaged, or no Arrow file"):
        texts(path)


def test_arrow_files_lie_on_s3_too(s3: S3Server, tmp_path: Path) -> None:
    uri = s3.bucket("formats-test")
    expected = [f"row {i}" for i in range(500)]
    for name, stream in (("file.arrow", False), ("stream.arrow", True)):
        path = write_arrow(tmp_path / name, pa.table({"text": expected}), 50, stream=stream)
        s3.client().put_object(Bucket="formats-test", Key=name, Body=path.read_bytes())
        size = path.stat().st_size
        assert texts(f"{uri}/{name}", cuts=[size // 3, size // 2]) == expected


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_row_groups_on_s3_are_read_at_once_or_in_pieces(
    held: int, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_parquet, "_LARGEST_HELD", held)
    uri = s3.bucket("formats-test")
    expected = [f"row {i}" for i in range(5000)]
    pq.write_table(pa.table({"text": expected}), tmp_path / "a.parquet", row_group_size=1000)
    data = (tmp_path / "a.parquet").read_bytes()
    s3.client().put_object(Bucket="formats-test", Key="a.parquet", Body=data)
    assert texts(f"{uri}/a.parquet", cuts=[len(data) // 3]) == expected


def test_a_column_inside_a_list_is_refused_in_words(tmp_path: Path) -> None:
    table = pa.table({"pages": [[{"text": "x"}]], "text": ["y"]})
    path = write_arrow(tmp_path / "a.arrow", table, 1, stream=False)
    with pytest.raises(StokerError, match=r"column 'pages' is list.*what lies in lists can't be"):
        texts(path, ReadOptions("pages.text"))
    with pytest.raises(StokerError, match="no column 'body': it has pages, text"):
        check_columns(slices(one_input(path), []), ReadOptions("body"))
    with pytest.raises(StokerError, match="one value a row"):
        column_types(slices(one_input(path), [])[0], ["pages"])


def test_a_field_inside_an_array_is_no_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"pages": [{"text": "x"}]}\n')
    [row] = bad_rows(path, ReadOptions("pages.text"))
    assert row.reason == "no field 'pages.text': 'text' would lie in an array"


# --- datasets.save_to_disk ---------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A DatasetDict of two splits, the first in two files, as `datasets` itself saves it."""
    from datasets import Dataset, DatasetDict

    train = Dataset.from_dict({"text": [f"train {i}" for i in range(20)], "n": list(range(20))})
    test = Dataset.from_dict({"text": ["test"], "n": [1]})
    folder = tmp_path / "saved"
    splits = DatasetDict({"train": train, "test": test})
    splits.save_to_disk(str(folder), num_shards={"train": 2, "test": 1})
    return folder


def test_a_saved_split_is_its_data_files_and_not_what_was_cached_beside_them(saved: Path) -> None:
    from datasets import load_from_disk

    split = saved / "train"
    load_from_disk(str(split)).map(
        lambda row: {"text": "mapped"}, cache_file_name=str(split / "cache-1.arrow")
    )
    assert (split / "cache-1.arrow").exists()
    found = find_inputs([f"web={split}"])
    assert [Path(one.uri).name for one in found] == [f"data-0000{i}-of-00002.arrow" for i in (0, 1)]
    assert {one.source for one in found} == {"web"}
    read = [text for one in found for text in texts(one.uri)]
    assert read == load_from_disk(str(split))["text"][:]


def test_a_saved_dataset_of_several_splits_asks_which(saved: Path) -> None:
    with pytest.raises(StokerError, match=r"several splits \(test, train\): name the ones"):
        find_inputs([str(saved)])
    both = find_inputs([f"a={saved}/train", f"b={saved}/test"])
    assert [one.source for one in both] == ["a", "a", "b"]


def test_a_saved_dataset_of_one_split_needs_no_choice(saved: Path, tmp_path: Path) -> None:
    (saved / "test").rename(tmp_path / "elsewhere")
    assert len(find_inputs([str(saved)])) == 2


def test_a_data_file_that_a_saved_dataset_lost_is_missed(saved: Path) -> None:
    (saved / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(StokerError, match=r"data-00001-of-00002\.arrow is missing"):
        find_inputs([str(saved / "train")])


@pytest.mark.parametrize("state", ["[]", "{", '{"_data_files": [1]}', '{"_data_files": 5}'])
def test_a_damaged_state_is_named(state: str, saved: Path) -> None:
    (saved / "test" / "state.json").write_text(state)
    with pytest.raises(StokerError, match=r"test/state\.json is damaged"):
        find_inputs([str(saved / "test")])


def test_a_saved_dataset_may_lie_on_s3(saved: Path, s3: S3Server) -> None:
    uri = s3.bucket("saved-test")
    for path in saved.rglob("*.*"):
        key = f"corpus/{path.relative_to(saved)}"
        s3.client().put_object(Bucket="saved-test", Key=key, Body=path.read_bytes())
    with pytest.raises(StokerError, match="several splits"):
        find_inputs([f"{uri}/corpus/"])
    found = find_inputs([f"{uri}/corpus/train/"])
    assert [text for one in found for text in texts(one.uri)] == [f"train {i}" for i in range(20)]


# --- separators --------------------------------------------------------------------------------


def between(ending: str) -> ReadOptions:
    return ReadOptions(text_split="separator", separator=ending)


def split_plainly(text: str, ending: str) -> list[str]:
    parts = text.split(ending)
    return parts if parts[-1] else parts[:-1]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from("<|>eab\n é"), max_size=60),
    ending=st.sampled_from(["<|e|>", "|", "ab", "é", "\n", "<|"]),
    cuts=st.lists(st.integers(0, 80), max_size=6),
    chunk=st.sampled_from([1, 2, 3, 7, 1 << 20]),
)
def test_any_cut_gives_each_text_between_separators_once(
    text: str,
    ending: str,
    cuts: list[int],
    chunk: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_text(text, newline="")
    assert is_divisible(one_input(path), between(ending))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "READ_BYTES", chunk)
        patch.setattr(read_lines, "_SEARCH_BYTES", chunk)
        assert texts(path, between(ending), cuts) == split_plainly(text, ending)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.sampled_from("a\n"), max_size=30),
    ending=st.sampled_from(["\n\n", "aa", "a\na", "\n\n\n"]),
    chunk=st.sampled_from([1, 2, 5, 1 << 20]),
)
def test_a_separator_that_may_overlap_itself_is_read_from_the_start(
    text: str, ending: str, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_text(text, newline="")
    assert not is_divisible(one_input(path), between(ending))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "READ_BYTES", chunk)
        assert texts(path, between(ending)) == split_plainly(text, ending)


def test_the_place_of_a_bad_text_is_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one<|e|>\xff two<|e|>three")
    [row] = bad_rows(path, between("<|e|>"))
    assert (row.place, row.sample) == ("text at byte 8", "\ufffd two")


@pytest.mark.parametrize(("split", "separator"), [("separator", ""), ("line", "|"), ("file", "|")])
def test_a_separator_is_needed_where_it_separates_and_nowhere_else(
    split: str, separator: str
) -> None:
    with pytest.raises(StokerError, match="a separator is needed where"):
        Options(inputs=("x",), output="y", tokenizer="z", text_split=split, separator=separator)
