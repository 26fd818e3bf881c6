"""Index, cells and inputs: Arrow tables whose fixed-width columns lie at known offsets.

Each is one uncompressed record batch, so that rows [a, b) of a column are one ranged read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from shards.errors import DatasetError
from shards.format import xxh3
from shards.store import Store
from shards.writer import to_ipc

INDEX_COLUMNS = {
    **dict.fromkeys(("plan", "unit", "part", "split", "source"), "uint32"),
    **dict.fromkeys(("bytes", "tokens", "documents"), "uint64"),
    **dict.fromkeys(("tokens_at", "documents_at", "loss_mask_at", "xxh3"), "uint64"),
}
CELL_COLUMNS = ("tokens_xxh3", "first_document", "documents_xxh3", "loss_mask_xxh3")
WHOLE_TABLE_BYTES = 64 << 20
_NAME = r"^(index|cells|inputs)-[0-9a-f]{16}\.arrow$"


@checked(frozen=True, kw_only=True)
class TableInfo:
    """What the manifest says of a table.

    Attributes:
        xxh3: of the whole file, 16 hex digits; also in its name.
        columns: byte offset in the file at which each fixed-width column begins.
    """

    name: str = Field(pattern=_NAME)
    bytes: int = Field(gt=0)
    rows: int = Field(ge=0)
    xxh3: str = Field(pattern=r"^[0-9a-f]{16}$")
    columns: dict[str, int]


def write_table(store: Store, kind: str, columns: Mapping[str, pa.Array]) -> TableInfo:
    """Writes `<kind>-<hash>.arrow`; the same rows always make the same name and bytes."""
    data = to_ipc(pa.record_batch(dict(columns)))
    digest = f"{xxh3(data):016x}"
    name = f"{kind}-{digest}.arrow"
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    offsets = {
        column: batch.column(i).buffers()[1].address - data.address
        for i, column in enumerate(batch.schema.names)
        if pa.types.is_integer(batch.schema.field(i).type) and batch.num_rows
    }
    store.write(name, data)
    return TableInfo(name=name, bytes=len(data), rows=len(batch), xxh3=digest, columns=offsets)


def read_table(store: Store, info: TableInfo) -> pa.RecordBatch:
    """Reads a whole table and checks it against the manifest.

    Raises:
        DatasetError: other bytes than the manifest promises.
    """
    return parse_table(store.read(info.name), info, store.uri)


def parse_table(data: bytes, info: TableInfo, uri: str) -> pa.RecordBatch:
    """A whole table from its bytes, a view of them. `uri`: of the dataset.

    Raises:
        DatasetError: other bytes than the manifest promises.
    """
    if len(data) != info.bytes or f"{xxh3(data):016x}" != info.xxh3:
        raise DatasetError(
            f"{uri}/{info.name} is not the table that the manifest names: its checksum or "
            "size differs. Restore it; a dataset of one plan can be committed again in seconds: "
            f"delete {uri}/manifest.json and run the tokenize job again"
        )
    try:
        batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    except (pa.ArrowInvalid, pa.ArrowIndexError, OSError) as error:
        raise DatasetError(f"{uri}/{info.name} is no Arrow file: {error}") from error
    if batch.num_rows != info.rows:
        raise DatasetError(f"{uri}/{info.name}: {batch.num_rows} rows, not {info.rows}")
    return batch


def uint_column(batch: pa.RecordBatch, name: str, dtype: str, where: str) -> npt.NDArray[np.int64]:
    """A column of unsigned integers as int64, except checksums, which stay uint64.

    Raises:
        DatasetError: no such column, another type, nulls, or values of 2**62 and above.
    """
    index = batch.schema.get_field_index(name)
    if index < 0 or str(batch.schema.field(index).type) != dtype or batch.column(index).null_count:
        raise DatasetError(f"{where}: no column {name} of {dtype} without nulls")
    # Not to_numpy(): it imports pandas where there is one, half a second before a first batch.
    values: npt.NDArray[Any] = np.from_dlpack(batch.column(index))
    if name.endswith("xxh3"):
        return values
    if len(values) and values.max() >= 1 << 62:
        raise DatasetError(f"{where}: column {name} holds {values.max()}")
    return values.astype(np.int64)


@dataclass
class CellTable:
    """The cells of all shards of a dataset, in index order.

    Attributes:
        path: key of the table below the dataset.
        rows: cells.
        bytes: of the whole file.
    """

    store: Store
    info: TableInfo
    _whole: pa.RecordBatch | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> str:
        return self.info.name

    @property
    def wanted_whole(self) -> bool:
        """Small enough to be held, and not yet here."""
        return self._whole is None and self.bytes <= WHOLE_TABLE_BYTES

    def hold(self, whole: pa.RecordBatch) -> None:
        """Keeps the whole table, as `parse_table` gave it."""
        self._whole = whole

    @property
    def rows(self) -> int:
        return self.info.rows

    @property
    def bytes(self) -> int:
        return self.info.bytes

    def byte_range(self, column: str, start: int, stop: int) -> tuple[int, int]:
        """Where rows [start, stop) of a column lie in the file.

        Raises:
            DatasetError: no such column, rows that aren't there, or an offset beyond the file.
        """
        at = self.info.columns.get(column)
        if at is None or not 0 <= start <= stop <= self.rows:
            raise DatasetError(
                f"{self.store.uri}/{self.path}: no rows {start}-{stop} of a column {column}"
            )
        if at < 0 or at + 8 * self.rows > self.bytes:
            raise DatasetError(
                f"{self.store.uri}/manifest.json: column {column} lies beyond {self.path}"
            )
        return at + 8 * start, at + 8 * stop

    def read(self, column: str, start: int, stop: int) -> npt.NDArray[np.uint64]:
        """Rows [start, stop) of a column; a table under 64 MB is read whole, once, and kept."""
        if self.bytes > WHOLE_TABLE_BYTES:
            data = self.store.read(self.path, *self.byte_range(column, start, stop))
            return np.frombuffer(data, "<u8")
        if self._whole is None:
            self._whole = read_table(self.store, self.info)
        self.byte_range(column, start, stop)
        whole = uint_column(self._whole, column, "uint64", f"{self.store.uri}/{self.path}")
        return whole[start:stop].view(np.uint64)

    def __getstate__(self) -> dict[str, object]:
        return {"store": self.store, "info": self.info, "_whole": None}
