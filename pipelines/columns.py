"""Columns kept beside the text: one type each for the whole job, whatever file a row comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import pyarrow as pa

from shards.errors import StokerError

# What a person may write after a column's name, as in `--keep-columns year:int`.
TYPES = {
    "string": pa.large_string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}
_TYPED = re.compile(rf"(.+):({'|'.join(TYPES)})", re.DOTALL)
_INT64 = range(-(1 << 63), 1 << 63)


def split_type(name: str) -> tuple[str, pa.DataType | None]:
    """(`name`, its type or None) of a column as a person writes it: `url`, `year:int`."""
    found = _TYPED.fullmatch(name)
    return (found[1], TYPES[found[2]]) if found else (name, None)


def scalar_type(kind: pa.DataType, uri: str, name: str) -> pa.DataType:
    """The type a kept column has in shards: the file's own, text and bytes in their large forms.

    Raises:
        StokerError: a list, a struct, or another type that isn't one value a row.
    """
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_nested(kind) or types.is_null(kind) or isinstance(kind, pa.ExtensionType):
        raise StokerError(
            f"{uri}: column {name!r} is {kind}; only columns with one value a row can be kept"
        )
    return kind


def cast_column(values: pa.Array, kind: pa.DataType, uri: str, name: str) -> pa.Array:
    """`values` as `kind`, the job's type of this column, when no value changes by it.

    Raises:
        StokerError: the file has another type of column under this name.
    """
    if values.type == kind:
        return values
    own = scalar_type(values.type, uri, name)
    if own == kind or _widens(own, kind):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid as error:
            raise StokerError(f"{uri}: column {name!r} doesn't fit into {kind}: {error}") from error
    raise StokerError(
        f"{uri}: column {name!r} is {own}, but {kind} in the job's first file: make the files "
        f"agree, keep it as text with {name}:string, or leave the column out"
    )


def _widens(own: pa.DataType, kind: pa.DataType) -> bool:
    types = pa.types
    numeric = types.is_integer(own) or types.is_floating(own)
    if types.is_large_string(kind):
        return bool(numeric or types.is_boolean(own))
    if types.is_floating(kind):
        return bool(numeric)
    return bool(types.is_integer(kind) and types.is_integer(own))


# --- JSON --------------------------------------------------------------------------------------


def json_types(
    rows: Iterable[dict[str, Any]], names: Sequence[str], uri: str
) -> dict[str, pa.DataType]:
    """The type of each field by the values it has in `rows`: text, int64, float64 or bool.

    Raises:
        StokerError: a field with values of several kinds, with arrays or objects, or without any.
    """
    seen: dict[str, set[str]] = {name: set() for name in names}
    for row in rows:
        for name in names:
            seen[name].add(_kind(field_of(row, name)))
    return {name: _one_type(kinds - {"null"}, uri, name) for name, kinds in seen.items()}


def _one_type(kinds: set[str], uri: str, name: str) -> pa.DataType:
    if len(kinds) == 1 and kinds < set(TYPES):
        return TYPES[next(iter(kinds))]
    if kinds == {"int", "float"}:
        return TYPES["float"]
    found = f"has {' and '.join(sorted(kinds))} values" if kinds else "has no value"
    raise StokerError(
        f"{uri}: field {name!r} {found} in the first rows: say what to keep it as, for example "
        f"{name}:string ({', '.join(TYPES)}; string takes any value, as its JSON text)"
    )


def _kind(value: object) -> str:
    names = {bool: "bool", int: "int", float: "float", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def field_of(row: dict[str, Any], name: str) -> Any:
    """The value of a field, by its whole name or by dots into objects; None if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def json_converter(kind: pa.DataType) -> Callable[[Any], Any]:
    """A function from a JSON value to one of `kind`; raises ValueError, in words, where none is.

    In a column of text every other value is its JSON text.
    """
    return {
        pa.large_string(): _as_text,
        pa.int64(): _as_int,
        pa.float64(): _as_float,
        pa.bool_(): _as_bool,
    }.get(kind, _as_unknown(kind))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _as_int(value: Any) -> int | None:
    if value is None or (type(value) is int and value in _INT64):
        return value
    raise ValueError("not an integer of 64 bits")


def _as_float(value: Any) -> float | None:
    if value is None or type(value) is float:
        return value
    if type(value) is int and float(value) == value:
        return float(value)
    raise ValueError("not a number that float64 holds")


def _as_bool(value: Any) -> bool | None:
    if value is None or type(value) is bool:
        return value
    raise ValueError("neither true nor false")


def _as_unknown(kind: pa.DataType) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        raise ValueError(f"JSON has no {kind}, which the column is in the job's first file")

    return convert
