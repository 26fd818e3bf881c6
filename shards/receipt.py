"""What a finished unit leaves behind: its shards and counts, so that a restarted job skips it.

A receipt is a row of an Arrow file of its own; the driver folds many into one part, so that a
restart reads few objects however many units there are: see `shards/ledger.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic.dataclasses import dataclass as checked

from shards.errors import DatasetError
from shards.format import Cells, shard_path
from shards.store import Store
from shards.writer import BuiltShard, to_ipc

Ints = npt.NDArray[np.int64]


@checked(frozen=True, kw_only=True)
class Counts:
    """What became of the rows of a unit or a job; see `add_up` for the rule they keep.

    Attributes:
        rows: read from the input.
        special_documents: documents that hold the text of a special token.
        text_bytes: UTF-8 bytes of the documents.
        tokens: begin and end tokens included.
        dropped_empty, dropped_short, dropped_long: the reasons of `dropped`: without a token at
            all, or outside the limits of the job's rules.
        transform_in, transform_out: rows that a transform was given and gave back; 0 without one.
    """

    rows: int = 0
    documents: int = 0
    dropped: int = 0
    quarantined: int = 0
    special_documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    dropped_empty: int = 0
    dropped_short: int = 0
    dropped_long: int = 0
    transform_in: int = 0
    transform_out: int = 0

    @property
    def add_up(self) -> bool:
        """`rows - transform_in + transform_out = documents + dropped + quarantined`.

        Without a transform: every row that was read is a document, dropped or quarantined. And
        each dropped one has a reason.
        """
        entered = self.rows - self.transform_in + self.transform_out
        reasons = self.dropped_empty + self.dropped_short + self.dropped_long
        return (entered, self.dropped) == (
            self.documents + self.dropped + self.quarantined,
            reasons,
        )

    def __add__(self, other: Counts) -> Counts:
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A written shard, as the index will have it, with its cells."""

    plan: str
    unit: int
    part: int
    split: str
    source: str
    bytes: int
    tokens: int
    documents: int
    tokens_at: int
    documents_at: int
    loss_mask_at: int
    xxh3: int
    cells: Cells

    @property
    def path(self) -> str:
        """Key below the dataset."""
        return shard_path(self.plan, self.unit, self.part)

    @classmethod
    def of(
        cls,
        plan: str,
        unit: int,
        part: int,
        built: BuiltShard,
        *,
        source: str = "default",
        split: str = "train",
    ) -> ShardRecord:
        """The record of a shard that `build_shard` made."""
        return cls(
            plan=plan,
            unit=unit,
            part=part,
            split=split,
            source=source,
            bytes=len(built.data),
            tokens=built.tokens,
            documents=built.documents,
            **asdict(built.layout),
            xxh3=built.xxh3,
            cells=built.cells,
        )


@dataclass(frozen=True)
class Receipt:
    """A unit that is done."""

    unit: int
    counts: Counts
    shards: tuple[ShardRecord, ...]


_TEXTS = ("plan", "source", "split")
_CELLS = [field.name for field in fields(Cells)]
_COUNTS = [field.name for field in fields(Counts)]
_NUMBERS = [f.name for f in fields(ShardRecord) if f.name not in (*_TEXTS, "cells")]
_SHARD = pa.struct(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.uint64()) for name in _NUMBERS]
    + [(name, pa.large_binary()) for name in _CELLS]
)
_SCHEMA = pa.schema(
    [(name, pa.uint64()) for name in ("unit", *_COUNTS)] + [("shards", pa.list_(_SHARD))]
)


def receipt_key(plan: str, unit: int) -> str:
    """Key of the receipt of a unit below its dataset."""
    return f"receipts/{plan}/{unit:08d}.arrow"


def write_receipt(store: Store, plan: str, receipt: Receipt) -> None:
    """Vouches for a unit: written after its shards."""
    store.write(receipt_key(plan, receipt.unit), to_ipc(to_batch([receipt])))


def to_batch(receipts: Sequence[Receipt]) -> pa.RecordBatch:
    """Receipts as rows: unit, counts, and a list of shards with their cells as binaries."""
    shards = [shard for receipt in receipts for shard in receipt.shards]
    counts = [receipt.counts for receipt in receipts]
    arrays = [
        *(pa.array([getattr(shard, name) for shard in shards], pa.string()) for name in _TEXTS),
        *(pa.array([getattr(shard, name) for shard in shards], pa.uint64()) for name in _NUMBERS),
        *(pa.array(_binaries(shards, name), pa.large_binary()) for name in _CELLS),
    ]
    ends = np.cumsum([0, *(len(receipt.shards) for receipt in receipts)])
    rows = pa.StructArray.from_arrays(arrays, fields=list(_SHARD))
    return pa.record_batch(
        [
            pa.array([receipt.unit for receipt in receipts], pa.uint64()),
            *(pa.array([getattr(one, name) for one in counts], pa.uint64()) for name in _COUNTS),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows),
        ],
        schema=_SCHEMA,
    )


def _binaries(shards: Iterable[ShardRecord], name: str) -> list[bytes | None]:
    columns = (getattr(shard.cells, name) for shard in shards)
    return [None if column is None else column.tobytes() for column in columns]


@dataclass(frozen=True)
class ReceiptColumns:
    """Receipts as columns, in whatever order they came; n receipts of m shards.

    Attributes:
        unit: int64 [n].
        counts: int64 [n] each, by the names of `Counts`.
        shards: int64 [n], how many each receipt has.
        numbers: [m] each, by the names of `ShardRecord`: int64, `xxh3` uint64; and `cells`, how
            many cells each shard has.
        splits, sources: texts [m].
        cells: large binaries [m], by the names of the cells table; a view of the file's bytes.
    """

    unit: Ints
    counts: Mapping[str, Ints]
    shards: Ints
    numbers: Mapping[str, Any]
    splits: pa.StringArray
    sources: pa.StringArray
    cells: Mapping[str, pa.LargeBinaryArray]

    @classmethod
    def parse(cls, data: Any, plan: str) -> ReceiptColumns:
        """Reads a receipt or a part.

        Raises:
            DatasetError: damaged, or no receipts of this plan.
        """
        try:
            reader = pa.ipc.open_file(pa.BufferReader(data))
            batch = reader.get_batch(0)
            batch.validate(full=True)
            return cls.of(batch, plan)
        except (pa.ArrowInvalid, pa.ArrowIndexError, OSError, ValueError) as error:
            raise DatasetError(f"no receipts: {error}") from error

    @classmethod
    def of(cls, batch: pa.RecordBatch, plan: str) -> ReceiptColumns:
        """The columns of `to_batch`. Raises DatasetError, likewise."""
        if batch.schema != _SCHEMA:
            raise DatasetError("these are no receipts, or those of another version")
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        rows = columns.pop("shards")
        shards = dict(zip((field.name for field in _SHARD), rows.flatten().flatten(), strict=True))
        required = [
            *columns.values(),
            rows,
            *(shards[n] for n in (*_TEXTS, *_NUMBERS, *_CELLS[:3])),
        ]
        if any(column.null_count for column in required):
            raise DatasetError("a receipt has nulls")
        own = {name: _numbers(column) for name, column in columns.items()}
        lengths = pc.list_value_length(rows).to_numpy().astype(np.int64)
        numbers: dict[str, Any] = {
            name: shards[name].to_numpy() if name == "xxh3" else _numbers(shards[name])
            for name in _NUMBERS
        }
        cells = {name: shards[name] for name in _CELLS}
        numbers["cells"] = _count_cells(cells, numbers["loss_mask_at"] > 0)
        if not np.array_equal(numbers["unit"], np.repeat(own["unit"], lengths)):
            raise DatasetError("a receipt vouches for another unit's shards")
        if not all(name == plan for name in shards["plan"].unique().to_pylist()):
            raise DatasetError(f"a receipt is not of plan {plan}")
        return cls(
            unit=own.pop("unit"),
            counts=own,
            shards=lengths,
            numbers=numbers,
            splits=shards["split"],
            sources=shards["source"],
            cells=cells,
        )


def _numbers(column: pa.UInt64Array) -> Ints:
    """int64, a copy; Arrow refuses values of 2**63 and above."""
    return np.array(column.cast(pa.int64()).to_numpy())


def _count_cells(cells: Mapping[str, pa.LargeBinaryArray], masked: npt.NDArray[np.bool_]) -> Ints:
    """Cells of each shard; every column has as many."""
    sizes = {name: pc.fill_null(pc.binary_length(column), 0) for name, column in cells.items()}
    counted = {name: column.to_numpy() for name, column in sizes.items()}
    found = counted[_CELLS[0]]
    expected = [found, found, found, np.where(masked, found, 0)]
    if np.any(found % 8) or not all(
        np.array_equal(counted[name], size) for name, size in zip(_CELLS, expected, strict=True)
    ):
        raise DatasetError("a receipt's columns of cells are not of one length")
    return np.array(found // 8, np.int64)


def binary_runs(column: pa.LargeBinaryArray) -> tuple[memoryview, Ints]:
    """The bytes of a column of binaries, one after the other, and where each begins: [m + 1]."""
    _, ends, data = column.buffers()
    offsets = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(data) if data is not None else memoryview(b""), offsets
