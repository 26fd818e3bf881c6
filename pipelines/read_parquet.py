"""Parquet -> documents: the row groups that start in a slice, a few MiB of text at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.columns import cast_column, scalar_type
from pipelines.files import InputFile, LocalFile
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import Batch, make_batch
from shards.errors import StokerError

BATCH_BYTES = 8 << 20
_LONGEST_LIST_OF_COLUMNS = 20


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of the text column (a dot reaches into a struct) in the row groups of `piece`."""
    names = [reading.text_column, *(reading.columns.names if reading.columns else ())]
    try:
        parquet = open_parquet(file)
        leaves = leaf_types(parquet.schema_arrow)
        check_text(leaves, file.uri, reading.text_column)
        check_kept(leaves, file.uri, names[1:])
        groups = [
            group
            for group in range(parquet.metadata.num_row_groups)
            if piece.start <= group_start(parquet.metadata, group) < piece.stop
        ]
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        done = 0
        for group in groups:
            for first, batch in _read_group(parquet, names, group):
                done += batch.num_rows
                yield rows_of(batch, first, file.uri, reading, piece.bytes * done // max(rows, 1))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from error


def open_parquet(file: InputFile) -> pq.ParquetFile:
    """The Parquet file; local ones are read by Arrow itself, without passing through Python."""
    source = file.uri if isinstance(file, LocalFile) else pa.PythonFile(file, mode="r")
    return pq.ParquetFile(source, pre_buffer=True)


def rows_of(batch: pa.RecordBatch, first: int, uri: str, reading: ReadOptions, done: int) -> Batch:
    """The documents and kept columns of a record batch whose first row has this number."""
    columns = None
    if reading.columns:
        kept = [
            cast_column(leaf(batch, field.name), field.type, uri, field.name)
            for field in reading.columns
        ]
        columns = pa.record_batch(kept, schema=reading.columns)
    return make_batch(
        leaf(batch, reading.text_column), uri, partial(_row_place, first), done, columns
    )


def column_types(file: InputFile, piece: Slice, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types that kept columns of this file have in shards."""
    try:
        leaves = leaf_types(open_parquet(file).schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from error
    check_kept(leaves, file.uri, names)
    return {name: scalar_type(leaves[name], file.uri, name) for name in names}


def check_text(leaves: Mapping[str, pa.DataType], uri: str, column: str) -> None:
    """Raises StokerError, with the columns there are, unless `column` is one of text."""
    if column not in leaves:
        raise _missing(leaves, uri, column, "--text-column")
    if not _is_text(leaves[column]):
        raise StokerError(
            f"{uri}: column {column!r} is {leaves[column]}, not text. Choose with --text-column"
        )


def check_kept(leaves: Mapping[str, pa.DataType], uri: str, names: Iterable[str]) -> None:
    """Raises StokerError, with the columns there are, if one of `names` isn't one of them."""
    for name in names:
        if name not in leaves:
            raise _missing(leaves, uri, name, "--keep-columns")


def _missing(leaves: Mapping[str, pa.DataType], uri: str, name: str, option: str) -> StokerError:
    names = list(leaves)
    more = len(names) - _LONGEST_LIST_OF_COLUMNS
    shown = ", ".join(names[:_LONGEST_LIST_OF_COLUMNS]) + (f", {more} more" if more > 0 else "")
    return StokerError(
        f"{uri} has no column {name!r}: it has {shown or 'none'}. Choose with {option}"
    )


def check_parquet(file: InputFile, column: str) -> None:
    """Raises StokerError unless the file is Parquet with this column of text; reads its footer."""
    try:
        check_text(leaf_types(open_parquet(file).schema_arrow), file.uri, column)
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
    parquet: pq.ParquetFile, names: list[str], group: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row in the file, rows) of a row group, a batch at a time."""
    metadata = parquet.metadata.row_group(group)
    first = sum(parquet.metadata.row_group(i).num_rows for i in range(group))
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in names)
    # A dictionary makes this an underestimate, of repeated values only.
    rows = max(1, metadata.num_rows * BATCH_BYTES // max(size, BATCH_BYTES))
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
        yield first, batch
        first += batch.num_rows


def _row_place(first: int, number: int) -> str:
    return f"row {first + number}"


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
