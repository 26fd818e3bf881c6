"""Parquet -> documents: the row groups that start in a slice, a few MiB of text at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.files import InputFile, LocalFile
from pipelines.plan import Slice
from pipelines.read import Batch, documents_of
from shards.errors import StokerError

BATCH_BYTES = 8 << 20
_LONGEST_LIST_OF_COLUMNS = 20


def read(file: InputFile, piece: Slice, column: str) -> Iterator[Batch]:
    """The rows of `column` (a dot reaches into a struct) in the row groups of `piece`."""
    try:
        parquet = open_parquet(file)
        check_column(parquet, file.uri, column)
        groups = [
            group
            for group in range(parquet.metadata.num_row_groups)
            if piece.start <= group_start(parquet.metadata, group) < piece.stop
        ]
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        done = 0
        for group in groups:
            for count, values, first in _read_group(parquet, column, group):
                documents, bad, place = documents_of(values, file.uri, partial(_row_place, first))
                done += count
                yield Batch(documents, tuple(bad), piece.bytes * done // max(rows, 1), place)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from error


def open_parquet(file: InputFile) -> pq.ParquetFile:
    """The Parquet file; local ones are read by Arrow itself, without passing through Python."""
    source = file.uri if isinstance(file, LocalFile) else pa.PythonFile(file, mode="r")
    return pq.ParquetFile(source, pre_buffer=True)


def check_column(parquet: pq.ParquetFile, uri: str, column: str) -> None:
    """Raises StokerError, with the columns there are, unless `column` is one of text."""
    leaves = _leaves(parquet.schema_arrow)
    if column not in leaves:
        names = list(leaves)
        more = len(names) - _LONGEST_LIST_OF_COLUMNS
        shown = ", ".join(names[:_LONGEST_LIST_OF_COLUMNS]) + (f", {more} more" if more > 0 else "")
        raise StokerError(
            f"{uri} has no column {column!r}: it has {shown or 'none'}. Choose with --text-column"
        )
    if not _is_text(leaves[column]):
        raise StokerError(
            f"{uri}: column {column!r} is {leaves[column]}, not text. Choose with --text-column"
        )


def check_parquet(file: InputFile, column: str) -> None:
    """Raises StokerError unless the file is Parquet with this column of text; reads its footer."""
    try:
        check_column(open_parquet(file), file.uri, column)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from error


def group_start(metadata: pq.FileMetaData, group: int) -> int:
    """Where a row group's bytes start: its first column's first page, a dictionary's included."""
    first = metadata.row_group(group).column(0)
    pages = [first.data_page_offset]
    # Some writers put 0 where there is no dictionary.
    if first.dictionary_page_offset:
        pages.append(first.dictionary_page_offset)
    return int(min(pages))


def _read_group(
    parquet: pq.ParquetFile, column: str, group: int
) -> Iterator[tuple[int, pa.Array, int]]:
    """(rows, their values, number of the first in the file) of a row group, a batch at a time."""
    metadata = parquet.metadata.row_group(group)
    first = sum(parquet.metadata.row_group(i).num_rows for i in range(group))
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    text_bytes = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == column)
    # A dictionary makes this an underestimate of the text, of repeated values only.
    rows = max(1, metadata.num_rows * BATCH_BYTES // max(text_bytes, BATCH_BYTES))
    for batch in parquet.iter_batches(
        rows, row_groups=[group], columns=[column], use_threads=False
    ):
        yield batch.num_rows, _leaf(batch, column), first
        first += batch.num_rows


def _row_place(first: int, number: int) -> str:
    return f"row {first + number}"


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column in batch.schema.names:
        return batch.column(column)
    name, *inner = column.split(".")
    return pc.struct_field(batch.column(name), inner)


def _leaves(schema: pa.Schema) -> dict[str, Any]:
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


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _damaged(uri: str, error: Exception) -> StokerError:
    return StokerError(
        f"{uri} is damaged, or no Parquet file ({error}): what it lost is unknown, so the job "
        "ends. Restore it, or leave it out"
    )
