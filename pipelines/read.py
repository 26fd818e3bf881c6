"""A unit -> batches of documents; rows that are none set apart, with file, place and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.columns import split_type
from pipelines.files import InputFile, open_input
from pipelines.options import ReadOptions, show_size
from pipelines.plan import Slice, Unit
from shards.errors import StokerError

SAMPLE_BYTES = 200
# A document or line above this is an error, so that no input can fill the memory of a worker.
LARGEST_DOCUMENT = 256 << 20


@dataclass(frozen=True)
class BadRow:
    """A row that is no document.

    Attributes:
        place: where in the file: a line and its byte, or a row number from 0.
        sample: the row's beginning, at most `SAMPLE_BYTES` of UTF-8.
    """

    uri: str
    place: str
    reason: str
    sample: str

    def __str__(self) -> str:
        return f"{self.uri} {self.place}: {self.reason}"


@dataclass(frozen=True)
class Batch:
    """Some of a slice's rows.

    Attributes:
        documents: large_string, no nulls, valid UTF-8.
        rows: that were read, counted apart from what became of them.
        done: input bytes of the slice read by now; for progress.
        place: of the document with this number: its uri and where in it, as `BadRow` says it.
        columns: `ReadOptions.columns` of the documents, row by row; None unless there are any.
    """

    documents: pa.LargeStringArray
    bad: tuple[BadRow, ...]
    rows: int
    done: int
    place: Callable[[int], str]
    columns: pa.RecordBatch | None = None


def read_unit(unit: Unit, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of a unit in order; `done` counts over the whole unit.

    Raises:
        StokerError: a file that changed, is damaged, or lacks a column that is asked for.
    """
    before = 0
    for piece in unit.slices:
        for batch in first_documents(read_slice(piece, reading), piece.most):
            yield replace(batch, done=before + batch.done)
        before += piece.bytes


def first_documents(batches: Iterator[Batch], most: int | None) -> Iterator[Batch]:
    """The batches up to the one that holds the last of `most` documents; None: all of them.

    Bad rows of that batch all come with it.
    """
    if most is None:
        yield from batches
        return
    for batch in batches:
        if most <= len(batch.documents):
            columns = None if batch.columns is None else batch.columns.slice(0, most)
            rows = batch.rows - (len(batch.documents) - most)
            documents = batch.documents.slice(0, most)
            yield replace(batch, documents=documents, rows=rows, columns=columns)
            return
        most -= len(batch.documents)
        yield batch


def read_slice(piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of one slice; see `read_unit`."""
    for batch in _read_slice(piece, reading):
        yield _without_longer(batch, piece.uri, reading.longest)


def _read_slice(piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    from pipelines import read_arrow, read_jsonl, read_lines, read_parquet

    if reading.columns and piece.format == "text":
        raise _no_columns(piece.uri, reading.columns.names)
    with open_input(piece) as file:
        if piece.format == "parquet":
            yield from read_parquet.read(file, piece, reading)
        elif piece.format == "jsonl":
            yield from read_jsonl.read(file, piece, reading)
        elif piece.format == "arrow":
            yield from read_arrow.read(file, piece, reading)
        elif reading.text_split == "file":
            yield from read_lines.read_text_file(file, piece)
        else:
            yield from read_lines.read_texts(file, piece, reading.ending)


def column_types(first: Slice, names: Sequence[str]) -> pa.Schema:
    """The types of columns to keep, `ReadOptions.columns`, as the job's first file has them.

    Args:
        names: dotted names, each with or without a type: `url`, `page.year:int`.

    Raises:
        StokerError: the file lacks one, or it isn't one value a row, or its type can't be told.
    """
    from pipelines import read_jsonl
    from pipelines.leaves import kept_types

    given = dict(map(split_type, names))
    open_ones = [name for name, kind in given.items() if kind is None]
    if first.format == "text":
        raise _no_columns(first.uri, list(given))
    with open_input(first) as file:
        if first.format == "jsonl":
            found = read_jsonl.column_types(file, first, open_ones)
        else:
            found = kept_types(_types(file, first.format), first.uri, open_ones)
    return pa.schema([(name, kind or found[name]) for name, kind in given.items()])


def check_columns(pieces: Iterable[Slice], reading: ReadOptions) -> None:
    """Looks into the first Parquet and the first Arrow file: before a task starts, not in one.

    Raises:
        StokerError: it is none, or lacks a column that is asked for.
    """
    from pipelines.leaves import check_leaves

    missing = {"parquet", "arrow"}
    for piece in pieces:
        if piece.format in missing:
            missing.discard(piece.format)
            with open_input(piece) as file:
                check_leaves(_types(file, piece.format), piece.uri, reading)


def _types(file: InputFile, format: str) -> dict[str, pa.DataType]:
    from pipelines import read_arrow, read_parquet

    return read_parquet.types(file) if format == "parquet" else read_arrow.types(file)


def _no_columns(uri: str, names: Sequence[str]) -> StokerError:
    return StokerError(f"{uri} is plain text: it has no column {names[0]!r} to keep")


def make_batch(
    values: Sequence[bytes] | pa.Array,
    uri: str,
    place: Callable[[int], str],
    done: int,
    columns: pa.RecordBatch | None = None,
) -> Batch:
    """The rows of `values` that are text, and those that are not: nulls and invalid UTF-8.

    Args:
        values: bytes, or an Arrow array of strings or bytes.
        place: of the row with this number in `values`.
        columns: kept ones, row by row beside `values`; text among them must be UTF-8 too.
    """
    raw = values if isinstance(values, pa.Array) else pa.array(values, pa.large_binary())
    if raw.type != pa.large_string():
        raw = raw.cast(pa.large_binary()).view(pa.large_string())
    beside = columns.columns if columns is not None else []
    texts = [column for column in beside if column.type == pa.large_string()]
    if not raw.null_count and all(map(is_utf8, [raw, *texts])):
        return Batch(raw, (), len(values), done, partial(_place_of, uri, place, None), columns)
    bad: list[BadRow] = []
    keep: list[bool] = []
    others = [column.view(pa.large_binary()) for column in texts]
    for number, value in enumerate(raw.view(pa.large_binary())):
        data = value.as_py()
        errors = [error for one in others if (error := utf8_error(one[number].as_py() or b""))]
        reason = "null instead of text" if data is None else utf8_error(data)
        if reason is None and errors:
            reason = f"{errors[0]} of a kept column"
        keep.append(reason is None)
        if reason is not None:
            bad.append(BadRow(uri, place(number), reason, sample(data or b"")))
    rows = [number for number, kept in enumerate(keep) if kept]
    mask = pa.array(keep, pa.bool_())
    where = partial(_place_of, uri, place, rows)
    columns = columns.filter(mask) if columns is not None else None
    return Batch(raw.filter(mask), tuple(bad), len(values), done, where, columns)


def _place_of(
    uri: str, place: Callable[[int], str], rows: Sequence[int] | None, number: int
) -> str:
    return f"{uri} {place(number if rows is None else rows[number])}"


def _without_longer(batch: Batch, uri: str, longest: int | None) -> Batch:
    """The batch with the documents of more than `longest` bytes set apart; None: all may stay."""
    if longest is None or batch.documents.nbytes <= longest:
        return batch
    lengths = pc.binary_length(batch.documents).to_pylist()
    keep = [length <= longest for length in lengths]
    bad = [
        BadRow(
            uri,
            batch.place(number).removeprefix(f"{uri} "),
            f"{show_size(lengths[number])} of text, more than the {show_size(longest)} that the "
            "engine `tokenizers` is given: it takes 110 bytes of memory for each",
            sample(batch.documents[number].as_buffer().to_pybytes()),
        )
        for number, kept in enumerate(keep)
        if not kept
    ]
    rows = [number for number, kept in enumerate(keep) if kept]
    mask = pa.array(keep, pa.bool_())
    return replace(
        batch,
        documents=batch.documents.filter(mask),
        bad=(*batch.bad, *bad),
        place=partial(_nth, batch.place, rows),
        columns=batch.columns.filter(mask) if batch.columns is not None else None,
    )


def _nth(place: Callable[[int], str], rows: Sequence[int], number: int) -> str:
    return place(rows[number])


def is_utf8(values: pa.LargeStringArray) -> bool:
    """Whether every value is valid UTF-8; some GB/s."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def utf8_error(data: bytes) -> str | None:
    """What is wrong with `data` as UTF-8, or None."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"invalid UTF-8: {error.reason} at its byte {error.start}"
    return None


def sample(data: Any) -> str:
    """The beginning of a row, at most `SAMPLE_BYTES` bytes of UTF-8."""
    head: str = data[:SAMPLE_BYTES].decode("utf-8", "replace")
    return head.encode()[:SAMPLE_BYTES].decode("utf-8", "ignore")
