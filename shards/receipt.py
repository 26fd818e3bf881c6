"""What a finished unit leaves behind: its shards and counts, so that a restarted job skips it.

A receipt is a row of an Arrow file of its own; the driver folds many into one part, so that a
restart reads few objects however many units there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
from pydantic.dataclasses import dataclass as checked

from shards.format import Cells, shard_path, xxh3
from shards.store import Store
from shards.writer import BuiltShard, to_ipc


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


_TEXT = {"plan", "split", "source"}
_CELLS = [field.name for field in fields(Cells)]
_NUMBERS = [f.name for f in fields(ShardRecord) if f.name not in _TEXT and f.name != "cells"]
_SHARD = pa.struct(
    [(name, pa.string()) for name in sorted(_TEXT)]
    + [(name, pa.uint64()) for name in _NUMBERS]
    + [(name, pa.large_binary()) for name in _CELLS]
)
_SCHEMA = pa.schema(
    [("unit", pa.uint64())]
    + [(field.name, pa.uint64()) for field in fields(Counts)]
    + [("shards", pa.list_(_SHARD))]
)


def write_receipt(store: Store, plan: str, receipt: Receipt) -> None:
    """Vouches for a unit: written after its shards."""
    store.write(f"receipts/{plan}/{receipt.unit:08d}.arrow", _encode([receipt]))


def fold_receipts(store: Store, plan: str, receipts: Iterable[Receipt]) -> None:
    """Writes receipts together as one part, then removes those of the single units."""
    receipts = list(receipts)
    data = _encode(receipts)
    store.write(f"receipts/{plan}/part-{xxh3(data):016x}.arrow", data)
    for receipt in receipts:
        store.delete(f"receipts/{plan}/{receipt.unit:08d}.arrow")


def read_receipts(store: Store, plan: str) -> dict[int, Receipt]:
    """Receipts of earlier runs, by unit. A broken one is none: its unit runs again."""
    found: dict[int, Receipt] = {}
    for entry in list(store.list(f"receipts/{plan}/")):
        if not entry.key.endswith(".arrow"):
            continue
        try:
            receipts = _decode(store.read(entry.key))
        except (pa.ArrowInvalid, pa.ArrowIndexError, KeyError, ValueError, TypeError):
            continue
        found.update((receipt.unit, receipt) for receipt in receipts)
    return found


def _encode(receipts: list[Receipt]) -> pa.Buffer:
    rows = [
        {
            "unit": receipt.unit,
            **asdict(receipt.counts),
            "shards": [_shard_row(shard) for shard in receipt.shards],
        }
        for receipt in receipts
    ]
    return to_ipc(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))


def _shard_row(shard: ShardRecord) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(shard, name) for name in [*_TEXT, *_NUMBERS]}
    cells = {name: values.tobytes() for name, values in shard.cells.columns().items()}
    return {**row, **dict.fromkeys(_CELLS), **cells}


def _decode(data: bytes) -> list[Receipt]:
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    return [_receipt(row) for row in batch.to_pylist()]


def _receipt(row: dict[str, object]) -> Receipt:
    shards = row.pop("shards")
    unit = row.pop("unit")
    return Receipt(
        unit=unit,  # type: ignore[arg-type]
        counts=Counts(**row),  # type: ignore[arg-type]
        shards=tuple(_shard(shard) for shard in shards),  # type: ignore[attr-defined]
    )


def _shard(row: dict[str, object]) -> ShardRecord:
    cells = {name: row.pop(name) for name in _CELLS}
    columns = {
        name: None if data is None else np.frombuffer(data, np.uint64)  # type: ignore[call-overload]
        for name, data in cells.items()
    }
    return ShardRecord(**row, cells=Cells(**columns))  # type: ignore[arg-type]
