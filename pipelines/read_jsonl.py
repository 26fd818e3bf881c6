"""JSON lines -> documents: the text of a field of each line's object, and of others beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from pipelines.columns import field_of, json_converter, json_types
from pipelines.files import InputFile
from pipelines.json_block import JsonBlocks
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import BadRow, Batch, sample, utf8_error
from pipelines.read_lines import blocks_of, place_of

_BOM = b"\xef\xbb\xbf"
# Rows of the first file that tell the types of kept fields.
_TELLING_ROWS = 10_000


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The text in a field of each line's JSON object, a dot reaches in; blank lines are none."""
    blocks, lines = JsonBlocks(reading), _Lines(file.uri, piece, reading)
    for done, offset, block in blocks_of(file, piece, b"\n"):
        # A place counts from the file's start, whatever stands before the first line.
        content = block.removeprefix(_BOM) if offset == 0 else block
        offset += len(block) - len(content)
        whole = blocks.read(content)
        if whole is None:
            yield lines.read(content, offset, done)
            continue
        place = partial(_place_in_block, file.uri, piece, offset, whole.starts)
        yield Batch(whole.documents, (), len(whole.starts), done, place, whole.columns)


class _Lines:
    """Reads lines one by one, so that each bad one is set apart by itself."""

    def __init__(self, uri: str, piece: Slice, reading: ReadOptions) -> None:
        self._uri, self._piece, self._columns = uri, piece, reading.columns
        self._field, self._keys = reading.text_column, reading.text_column.split(".")
        kept = reading.columns or ()
        self._converters = [(one.name, json_converter(one.type)) for one in kept]

    def read(self, block: bytes, offset: int, done: int) -> Batch:
        """The rows of some whole lines, the first of them at `offset`."""
        texts: list[str] = []
        beside: list[list[Any]] = [[] for _ in self._converters]
        starts: list[int] = []
        bad: list[BadRow] = []
        lines, blank = block.split(b"\n"), 0
        for line in lines:
            try:
                row = orjson.loads(line)
                text = _text_of(row, self._field, self._keys)
                values = [_convert(row, *converter) for converter in self._converters]
            except ValueError as error:
                if not line.strip():
                    blank += 1
                else:
                    at = place_of(self._piece, offset)
                    bad.append(BadRow(self._uri, at, _reason(line, error), sample(line)))
            else:
                texts.append(text)
                starts.append(offset)
                for column, value in zip(beside, values, strict=True):
                    column.append(value)
            offset += len(line) + 1
        documents = pa.array(texts, pa.large_string())
        place = partial(_place_of, self._uri, self._piece, starts)
        columns = _columns(beside, self._columns)
        return Batch(documents, tuple(bad), len(lines) - blank, done, place, columns)


def column_types(file: InputFile, piece: Slice, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of fields to keep, by the first lines that are objects."""
    if not names:
        return {}
    blocks = (block for _, _, block in blocks_of(file, piece, b"\n"))
    lines = (line for block in blocks for line in block.split(b"\n"))
    return json_types(islice(filter(None, map(_row_of, lines)), _TELLING_ROWS), names, file.uri)


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


class _NoDocument(ValueError):
    """Why a line that is JSON is no document."""


def _text_of(row: Any, field: str, keys: list[str]) -> str:
    if not isinstance(row, dict):
        raise _NoDocument(f"the line is a JSON {_json_type(row)}, not an object")
    value: Any = row
    if field in row:
        value = row[field]
    else:
        for key in keys:
            if isinstance(value, list):
                raise _NoDocument(f"no field {field!r}: {key!r} would lie in an array")
            if not isinstance(value, dict) or key not in value:
                raise _NoDocument(f"no field {field!r}")
            value = value[key]
    if isinstance(value, str):
        return value
    raise _NoDocument(f"field {field!r} is {_json_type(value)}, not a string")


def _convert(row: dict[str, Any], name: str, convert: Any) -> Any:
    try:
        return convert(field_of(row, name))
    except ValueError as error:
        raise _NoDocument(f"field {name!r} is {error}") from None


def _reason(line: bytes, error: ValueError) -> str:
    if isinstance(error, orjson.JSONDecodeError):
        return utf8_error(line) or f"malformed JSON: {error.msg} at its character {error.pos}"
    return str(error)


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a string" if isinstance(value, str) else "a number")


def _place_of(uri: str, piece: Slice, starts: list[int], number: int) -> str:
    return f"{uri} {place_of(piece, starts[number])}"


def _place_in_block(
    uri: str, piece: Slice, offset: int, starts: npt.NDArray[np.int64], number: int
) -> str:
    return f"{uri} {place_of(piece, offset + int(starts[number]))}"


def _columns(values: list[list[Any]], schema: pa.Schema | None) -> pa.RecordBatch | None:
    if not schema:
        return None
    arrays = [pa.array(one, field.type) for one, field in zip(values, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
