"""JSON lines -> documents: the text of a field of each line's object, and of others beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa

from pipelines.columns import field_of, json_converter, json_types
from pipelines.files import InputFile
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import BadRow, Batch, sample
from pipelines.read_lines import lines_of, place_of

_BOM = b"\xef\xbb\xbf"
# Rows of the first file that tell the types of kept fields.
_TELLING_ROWS = 10_000


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The text in a field of each line's JSON object, a dot reaches in; blank lines are none."""
    field, keys = reading.text_column, reading.text_column.split(".")
    kept = reading.columns or ()
    converters = [(one.name, json_converter(one.type)) for one in kept]
    for done, offset, lines in lines_of(file, piece):
        texts: list[str] = []
        beside: list[list[Any]] = [[] for _ in kept]
        starts: list[int] = []
        bad: list[BadRow] = []
        for line in lines:
            try:
                row = orjson.loads(line.removeprefix(_BOM) if offset == 0 else line)
                text = _text_of(row, field, keys)
                values = [_convert(row, *converter) for converter in converters]
            except ValueError as error:
                if line.strip():
                    bad.append(
                        BadRow(file.uri, place_of(piece, offset), _reason(error), sample(line))
                    )
            else:
                texts.append(text)
                starts.append(offset)
                for column, value in zip(beside, values, strict=True):
                    column.append(value)
            offset += len(line) + 1
        documents = pa.array(texts, pa.large_string())
        place = partial(_place_of, file.uri, piece, starts)
        yield Batch(documents, tuple(bad), done, place, _columns(beside, reading.columns))


def column_types(file: InputFile, piece: Slice, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of fields to keep, by the first lines that are objects."""
    if not names:
        return {}
    lines = (line for _, _, lines in lines_of(file, piece) for line in lines)
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


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _NoDocument) else f"malformed JSON: {error}"


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a string" if isinstance(value, str) else "a number")


def _place_of(uri: str, piece: Slice, starts: list[int], number: int) -> str:
    return f"{uri} {place_of(piece, starts[number])}"


def _columns(values: list[list[Any]], schema: pa.Schema | None) -> pa.RecordBatch | None:
    if not schema:
        return None
    arrays = [pa.array(one, field.type) for one, field in zip(values, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
