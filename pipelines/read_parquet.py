"""Parquet -> documents: the row groups of a slice, a few MiB of text at a time.

Row groups share the file's bytes in proportion to their sizes, in order, as the footer has them; a
group belongs to the slice in which its share begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import InputFile, LocalFile
from pipelines.leaves import DAMAGE, check_leaves, leaf_types, rows_of
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import Batch
from shards.errors import StokerError

BATCH_BYTES = 8 << 20
# A row group with more, not compressed, is not fetched at once.
_LARGEST_HELD = 256 << 20


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of the text column (a dot reaches into a struct) in the row groups of `piece`."""
    names = [reading.text_column, *(reading.columns.names if reading.columns else ())]
    try:
        parquet = open_parquet(file)
        check_leaves(leaf_types(parquet.schema_arrow), file.uri, reading)
        groups = [
            group
            for group in _groups(file, parquet.metadata)
            if piece.start <= group.start < piece.stop
        ]
        reader = _Reader(file, parquet, names)
        rows = sum(group.rows for group in groups)
        done = 0
        for group in groups:
            first = group.first
            before = done
            for batch in reader.read(group):
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
    """(row groups, about how many bytes of the file the largest has); reads the footer."""
    try:
        groups = _groups(file, open_parquet(file).metadata)
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error
    return len(groups), max((group.stop - group.start for group in groups), default=0)


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


@dataclass(frozen=True)
class _Group:
    """A row group.

    Attributes:
        first: number of its first row in the file.
        size: bytes of all its columns, not compressed, as the footer says.
        start, stop: its share of the file's bytes.
    """

    number: int
    rows: int
    first: int
    size: int
    start: int
    stop: int


def _groups(file: InputFile, metadata: pq.FileMetaData) -> list[_Group]:
    """All row groups; their shares of the file follow each other from its first byte to its last.

    Where a group really starts is known to its columns' metadata alone, and pyarrow 26 ends the
    process when those are damaged.
    """
    found = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [max(1, group.total_byte_size) for group in found]
    ends = [file.bytes * end // sum(sizes) for end in accumulate(sizes)]
    firsts = accumulate((group.num_rows for group in found), initial=0)
    return [
        _Group(number, group.num_rows, first, size, start, stop)
        for number, (group, first, size, start, stop) in enumerate(
            zip(found, firsts, sizes, [0, *ends], ends, strict=False)
        )
    ]


class _Reader:
    """Reads row groups of a file, a few MiB of the wanted columns at a time."""

    def __init__(self, file: InputFile, parquet: pq.ParquetFile, names: list[str]) -> None:
        self._file, self._parquet, self._names = file, parquet, names
        # Of a group's bytes, what the wanted columns have; learnt from the group before.
        self._share = 1.0

    def read(self, group: _Group) -> Iterator[pa.RecordBatch]:
        """The rows of a group."""
        # A dictionary makes this an underestimate, of repeated values only.
        size = max(self._share * group.size, BATCH_BYTES)
        rows = max(1, int(group.rows * BATCH_BYTES / size))
        parquet = self._parquet
        if not isinstance(self._file, LocalFile) and group.size <= _LARGEST_HELD:
            parquet = open_parquet(self._file, ahead=True, metadata=parquet.metadata)
        seen = 0
        for batch in parquet.iter_batches(
            rows, row_groups=[group.number], columns=self._names, use_threads=False
        ):
            seen += batch.nbytes
            yield batch
        self._share = seen / group.size


def _row_place(first: int, number: int) -> str:
    return f"row {first + number}"


def _damaged(uri: str, error: Exception) -> StokerError:
    return StokerError(
        f"{uri} is damaged, or no Parquet file ({error}): what it lost is unknown, so the job "
        "ends. Restore it, or leave it out"
    )
