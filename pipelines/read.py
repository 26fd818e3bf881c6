"""A unit -> batches of documents; rows that are none set apart, with file, place and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.files import open_input
from pipelines.plan import Slice, Unit

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
        done: input bytes of the slice read by now; for progress.
        place: of the document with this number: its uri and where in it, as `BadRow` says it.
    """

    documents: pa.LargeStringArray
    bad: tuple[BadRow, ...]
    done: int
    place: Callable[[int], str]


def read_unit(unit: Unit, text_column: str, text_split: str) -> Iterator[Batch]:
    """The rows of a unit in order; `done` counts over the whole unit.

    Raises:
        StokerError: a file that changed, is damaged, or lacks `text_column`.
    """
    before = 0
    for piece in unit.slices:
        for batch in read_slice(piece, text_column, text_split):
            yield replace(batch, done=before + batch.done)
        before += piece.bytes


def read_slice(piece: Slice, text_column: str, text_split: str) -> Iterator[Batch]:
    """The rows of one slice; see `read_unit`."""
    from pipelines import read_lines, read_parquet

    with open_input(piece) as file:
        if piece.format == "parquet":
            yield from read_parquet.read(file, piece, text_column)
        elif piece.format == "jsonl":
            yield from read_lines.read_jsonl(file, piece, text_column)
        elif text_split == "line":
            yield from read_lines.read_text_lines(file, piece)
        else:
            yield from read_lines.read_text_file(file, piece)


def documents_of(
    values: Sequence[bytes] | pa.Array, uri: str, place: Callable[[int], str]
) -> tuple[pa.LargeStringArray, list[BadRow], Callable[[int], str]]:
    """The rows of `values` that are text, and those that are not: nulls and invalid UTF-8.

    Args:
        values: bytes, or an Arrow array of strings or bytes.
        place: of the row with this number in `values`.

    Returns:
        The documents, the bad rows, and `Batch.place` of those documents.
    """
    raw = values if isinstance(values, pa.Array) else pa.array(values, pa.large_binary())
    if raw.type != pa.large_string():
        raw = raw.cast(pa.large_binary()).view(pa.large_string())
    if not raw.null_count and is_utf8(raw):
        return raw, [], partial(_place_of, uri, place, None)
    bad: list[BadRow] = []
    keep: list[bool] = []
    for number, value in enumerate(raw.view(pa.large_binary())):
        data = value.as_py()
        reason = "null instead of text" if data is None else utf8_error(data)
        keep.append(reason is None)
        if reason is not None:
            bad.append(BadRow(uri, place(number), reason, sample(data or b"")))
    rows = [number for number, kept in enumerate(keep) if kept]
    return raw.filter(pa.array(keep, pa.bool_())), bad, partial(_place_of, uri, place, rows)


def _place_of(
    uri: str, place: Callable[[int], str], rows: Sequence[int] | None, number: int
) -> str:
    return f"{uri} {place(number if rows is None else rows[number])}"


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
