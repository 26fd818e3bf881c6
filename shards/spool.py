"""A table of uint64 columns too large for memory: laid out first, then filled in any order.

The cells of a dataset of 15 T tokens are 22 GB, their columns must each be one run of bytes, and
they arrive shard by shard in no order. So the table is a local file first: Arrow itself writes head
and foot of it around columns of blank memory that are never read, and rows go to their places. Two
passes over the receipts instead would read them once a column, each in another order than they lie.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from shards.errors import StoreError
from shards.store import Store, os_errors
from shards.tables import TableInfo

_CHUNK = 8 << 20


class SpooledTable:
    """The file `shards.tables.write_table` would make of uint64 columns, byte by byte.

    Attributes:
        columns: byte offset in the file of each column.
        rows: of the table, at least one.
    """

    def __init__(self, path: Path, file: BinaryIO, names: Sequence[str], rows: int) -> None:
        self._path, self._file, self.rows = path, file, rows
        holes = _skeleton(file, names, rows)
        self.columns = dict(zip(names, holes, strict=True))

    def put(self, column: str, row: int, data: memoryview) -> None:
        """Writes values, 8 bytes each, to consecutive rows from `row` on."""
        self.put_bytes(column, 8 * row, data)

    def put_bytes(self, column: str, start: int, data: memoryview) -> None:
        """Writes bytes of a column from its byte `start` on."""
        at = self.columns[column] + start
        while data:
            written = os.pwrite(self._file.fileno(), data, at)
            data, at = data[written:], at + written

    def save(self, store: Store, kind: str) -> TableInfo:
        """Writes it into the store as `<kind>-<hash>.arrow`."""
        self._file.flush()
        digest = xxhash.xxh3_64()
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        name = f"{kind}-{digest.hexdigest()}.arrow"
        size = self._path.stat().st_size
        store.write_file(name, self._path)
        return TableInfo(
            name=name,
            bytes=size,
            rows=self.rows,
            xxh3=digest.hexdigest(),
            columns=dict(self.columns),
        )


@contextmanager
def spooled_table(store: Store, names: Sequence[str], rows: int) -> Iterator[SpooledTable]:
    """A table to be filled and saved before the block ends.

    Raises:
        StoreError: the local disk has no room for it, or refuses.
    """
    with store.spool() as path, os_errors(path):
        needed, free = 8 * rows * len(names), shutil.disk_usage(path.parent).free
        if needed > free:
            raise StoreError(
                f"{path.parent}: {os.strerror(errno.ENOSPC)} for the table of cells: it takes "
                f"{needed:,} bytes here and {free:,} are free. Make room, or set TMPDIR to a "
                "larger disk where the output is on S3; then run again: it goes on from here"
            )
        with path.open("w+b") as file:
            yield SpooledTable(path, file, names, rows)


def _skeleton(file: BinaryIO, names: Sequence[str], rows: int) -> list[int]:
    """Writes an Arrow file with holes for its columns; where those begin."""
    blank = pa.py_buffer(mmap.mmap(-1, 8 * rows, prot=mmap.PROT_READ))
    column = pa.Array.from_buffers(pa.uint64(), rows, [None, blank], null_count=0)
    batch = pa.record_batch([column] * len(names), names=list(names))
    sink = _Holes(file, blank)
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)
    file.flush()
    return sink.found


class _Holes:
    """A file for Arrow to write to that steps over the bytes of one buffer."""

    closed = False

    def __init__(self, file: BinaryIO, blank: pa.Buffer) -> None:
        self._file, self._blank = file, blank
        self.found: list[int] = []

    def write(self, data: Any) -> int:
        if isinstance(data, pa.Buffer) and data.address == self._blank.address:
            self.found.append(self._file.tell())
            self._file.seek(data.size, os.SEEK_CUR)
            return int(data.size)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True
