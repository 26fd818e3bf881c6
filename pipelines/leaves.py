"""Columns of Arrow tables by dotted names, which reach into structs: their types and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.columns import cast_column, scalar_type
from pipelines.options import ReadOptions
from pipelines.read import Batch, make_batch
from shards.errors import StokerError

_LONGEST_LIST_OF_COLUMNS = 20
# What Arrow raises for a damaged file; the last where a column's name isn't text.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


def rows_of(
    batch: pa.RecordBatch,
    uri: str,
    place: Callable[[int], str],
    reading: ReadOptions,
    done: int,
) -> Batch:
    """The documents and kept columns of a record batch; `place`: of its row with this number."""
    columns = None
    if reading.columns:
        kept = [
            cast_column(leaf(batch, field.name), field.type, uri, field.name)
            for field in reading.columns
        ]
        columns = pa.record_batch(kept, schema=reading.columns)
    return make_batch(leaf(batch, reading.text_column), uri, place, done, columns)


def check_leaves(leaves: Mapping[str, pa.DataType], uri: str, reading: ReadOptions) -> None:
    """Raises StokerError, with the columns there are, unless what `reading` names is among them."""
    column = reading.text_column
    if column not in leaves:
        raise _missing(leaves, uri, column, "--text-column")
    if not is_text(leaves[column]):
        raise StokerError(
            f"{uri}: column {column!r} is {leaves[column]}, not text. Choose with --text-column"
        )

    for name in reading.columns.names if reading.columns else ():
        if name not in leaves:
            raise _missing(leaves, uri, name, "--keep-columns")


def kept_types(
    leaves: Mapping[str, pa.DataType], uri: str, names: Sequence[str]
) -> dict[str, pa.DataType]:
    """The types that kept columns of this file have in shards."""
    for name in names:
        if name not in leaves:
            raise _missing(leaves, uri, name, "--keep-columns")
    return {name: scalar_type(leaves[name], uri, name) for name in names}


def _missing(leaves: Mapping[str, pa.DataType], uri: str, name: str, option: str) -> StokerError:
    names = list(leaves)
    for outer in names:
        if name.startswith(f"{outer}.") and pa.types.is_nested(leaves[outer]):
            return StokerError(
                f"{uri}: column {outer!r} is {leaves[outer]}: what lies in lists can't be chosen "
                f"with {option}, only what lies in structs"
            )
    more = len(names) - _LONGEST_LIST_OF_COLUMNS
    shown = ", ".join(names[:_LONGEST_LIST_OF_COLUMNS]) + (f", {more} more" if more > 0 else "")
    return StokerError(
        f"{uri} has no column {name!r}: it has {shown or 'none'}. Choose with {option}"
    )


def leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    """The values of a column by its dotted name; null where a struct around it is."""
    if column in batch.schema.names:
        return batch.column(column)
    name, *inner = column.split(".")
    return pc.struct_field(batch.column(name), inner)


def leaf_types(schema: pa.Schema) -> dict[str, Any]:
    """Type of each column by its dotted name."""
    found: dict[str, Any] = {}

    def walk(name: str, kind: pa.DataType) -> None:
        if not pa.types.is_struct(kind):
            found[name] = kind
            return
        for field in kind:
            walk(f"{name}.{field.name}", field.type)

    for field in schema:
        walk(field.name, field.type)
    return found


def is_text(kind: pa.DataType) -> bool:
    """Strings or bytes, whatever holds them."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)
