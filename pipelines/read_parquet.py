"""Parquet -> documents: the row groups that start in a slice, a few MiB of text at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import InputFile, LocalFile
from pipelines.leaves import DAMAGE, check_leaves, leaf_types, rows_of
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import Batch
from shards.errors import StokerError

BATCH_BYTES = 8 << 20
# A row group with more, compressed, is not fetched at once.
_LARGEST_HELD = 128 << 20


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of the text column (a dot reaches into a struct) in the row groups of `piece`."""
    names = [reading.text_column, *(reading.columns.names if reading.columns else ())]
    try:
        parquet = open_parquet(file)
        check_leaves(leaf_types(parquet.schema_arrow), file.uri, reading)
        groups = _groups_in(parquet.metadata, piece)
        rows = sum(group.rows for group in groups)
        done = 0
        for group in groups:
            first = group.first
            before = done
            for batch in _read_group(file, parquet, names, group):
                done += batch.num_rows
                part = piece.bytes * done // max(rows, 1)
                yield rows_of(batch, file.uri, partial(_row_place, first), reading, part)
                first += batch.num_rows
            if done - before != group.rows:
                raise pa.ArrowInvalid(f"row group {group.number} lacks rows of its {group.rows}")
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error


def types(file: InputFile) -> dict[str, pa.DataType]:
    """Type of each column by its dotted name; reads the footer."""
    try:
        return leaf_types(open_parquet(file).schema_arrow)
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error


def largest_group(file: InputFile) -> tuple[int, int]:
    """(row groups, bytes of the largest as stored) of the file; reads the footer."""
    try:
        metadata = open_parquet(file).metadata
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error
    count = metadata.num_row_groups
    starts = [group_start(metadata, group) for group in range(count)]
    return count, max((b - a for a, b in pairwise([*starts, file.bytes])), default=0)


def open_parquet(
    file: InputFile, *, ahead: bool = False, metadata: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """The Parquet file; local ones are read by Arrow itself, without passing through Python.

    Args:
        ahead: fetch a row group at once, while its beginning is decoded, instead of a few MiB at a
            time as they are needed: for where a read takes long.
        metadata: of this file, where it was read before.
    """
    source = file.uri if isinstance(file, LocalFile) else pa.PythonFile(file, mode="r")
    return pq.ParquetFile(
        source,
        metadata=metadata,
        pre_buffer=ahead,
        buffer_size=0 if ahead else BATCH_BYTES,
        page_checksum_verification=True,
    )


def group_start(metadata: pq.FileMetaData, group: int) -> int:
    """Where a row group's bytes start: its first column's first page, a dictionary's included."""
    first = metadata.row_group(group).column(0)
    pages = [first.data_page_offset]
    # Some writers put 0 where there is no dictionary.
    if first.dictionary_page_offset:
        pages.append(first.dictionary_page_offset)
    return int(min(pages))


@dataclass(frozen=True)
class _Group:
    """A row group: its number, its rows, and the number of its first row in the file."""

    number: int
    rows: int
    first: int


def _groups_in(metadata: pq.FileMetaData, piece: Slice) -> list[_Group]:
    groups, first = [], 0
    for number in range(metadata.num_row_groups):
        rows = metadata.row_group(number).num_rows
        if piece.start <= group_start(metadata, number) < piece.stop:
            groups.append(_Group(number, rows, first))
        first += rows
    return groups


def _read_group(
    file: InputFile, parquet: pq.ParquetFile, names: list[str], group: _Group
) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, a batch at a time."""
    metadata = parquet.metadata.row_group(group.number)
    columns = [metadata.column(i) for i in range(metadata.num_columns)]
    columns = [column for column in columns if column.path_in_schema in names]
    size = sum(column.total_uncompressed_size for column in columns)
    # A dictionary makes this an underestimate, of repeated values only.
    rows = max(1, group.rows * BATCH_BYTES // max(size, BATCH_BYTES))
    stored = sum(column.total_compressed_size for column in columns)
    if not isinstance(file, LocalFile) and stored <= _LARGEST_HELD:
        parquet = open_parquet(file, ahead=True, metadata=parquet.metadata)
    yield from parquet.iter_batches(
        rows, row_groups=[group.number], columns=names, use_threads=False
    )


def _row_place(first: int, number: int) -> str:
    return f"row {first + number}"


def _damaged(uri: str, error: Exception) -> StokerError:
    return StokerError(
        f"{uri} is damaged, or no Parquet file ({error}): what it lost is unknown, so the job "
        "ends. Restore it, or leave it out"
    )
