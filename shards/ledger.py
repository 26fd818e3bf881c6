"""Which units of a plan are done: receipts in bounded memory, their cells left on the store.

A million units leave a million receipts. The driver folds them, some hundred together, into parts,
and keeps of each shard a dozen numbers; the cells, which are a thousand times as many, are read
from the parts once more when the dataset is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.errors import DatasetError, MissingObject
from shards.format import xxh3
from shards.receipt import Counts, Ints, Receipt, ReceiptColumns, receipt_key, to_batch
from shards.store import Store
from shards.writer import to_ipc

# A restart of a million units then reads some thousands of objects.
FOLDED_TOGETHER = 256
_FOLDED_BYTES = 32 << 20
_READ_AHEAD = 8

_NUMBERS = ("unit", "part", "bytes", "tokens", "documents", "tokens_at", "documents_at")
COLUMNS = (*_NUMBERS, "loss_mask_at", "xxh3", "cells", "split", "source")

Columns = Mapping[str, npt.NDArray[Any]]
Number = TypeVar("Number", int, Ints)


@dataclass(frozen=True)
class _Block:
    """Shards of receipts that lie together: columns without cells, and where those are.

    Attributes:
        columns: [m] each, by the names of `COLUMNS`.
        kept: bool, which shards of the receipts there these are; None: all.
        key, batch: of the part on the store, or the receipts themselves.
    """

    columns: Columns
    kept: npt.NDArray[np.bool_] | None
    key: str = ""
    batch: pa.RecordBatch | None = None


class Ledger:
    """The receipts of a plan.

    Attributes:
        units: those that are done.
        quarantined: those of them that set rows apart, as they came.
        counts: sums over all of them.
        splits, sources: what the numbers in the columns `split` and `source` mean.
    """

    def __init__(self, store: Store, plan: str) -> None:
        self.store, self.plan = store, plan
        self.units: set[int] = set()
        self.quarantined: list[int] = []
        self.counts = Counts()
        self.splits: list[str] = []
        self.sources: list[str] = []
        self._blocks: list[_Block] = []
        self._loose: list[Receipt] = []
        self._loose_batches: list[pa.RecordBatch] = []
        self._loose_bytes = 0

    @classmethod
    def of(cls, store: Store, receipts: Iterable[Receipt]) -> Self:
        """A ledger of receipts in memory; a unit that comes twice counts once."""
        receipts = list(receipts)
        plans = {shard.plan for receipt in receipts for shard in receipt.shards}
        if len(plans) > 1:
            raise DatasetError(f"receipts of more than one plan: {', '.join(sorted(plans))}")
        ledger = cls(store, "".join(plans))
        batch = to_batch(receipts)
        ledger._take(ReceiptColumns.of(batch, ledger.plan), None, batch=batch)
        return ledger

    @classmethod
    def read(cls, store: Store, plan: str, shards: ListedShards | None = None) -> Self:
        """The receipts that earlier runs left on the store; a broken one is none.

        Args:
            shards: what lies there. A receipt alone proves nothing: its shards may have been
                deleted since. Only those are taken whose shards are there in their full size.
        """
        ledger = cls(store, plan)
        keys = [
            entry.key for entry in store.list(f"receipts/{plan}/") if entry.key[-6:] == ".arrow"
        ]
        # Parts come after single receipts in a listing; they are the ones that are not read again.
        parts = [key for key in keys if "/part-" in key]
        singles = [key for key in keys if "/part-" not in key]
        for key, data in read_ahead(
            store, (key for key in parts + singles if key[-6:] == ".arrow")
        ):
            if data is None or ("/part-" in key and not _is_whole(key, data)):
                continue
            try:
                columns = ReceiptColumns.parse(data, plan)
            except DatasetError:
                continue
            if "/part-" in key:
                ledger._take(columns, shards, key=key)
            else:
                ledger._take_single(columns, shards, data)
        return ledger

    def add(self, receipt: Receipt) -> None:
        """Takes the receipt of a unit that is done now; one that is known already changes nothing.

        Now and then it writes those that came lately as a part, and deletes the single ones.
        """
        if receipt.unit in self.units:
            return
        if any((shard.plan, shard.unit) != (self.plan, receipt.unit) for shard in receipt.shards):
            raise DatasetError(f"a receipt of unit {receipt.unit} is not of plan {self.plan}")
        self.units.add(receipt.unit)
        self.counts += receipt.counts
        if receipt.counts.quarantined:
            self.quarantined.append(receipt.unit)
        self._loose.append(receipt)
        cells = (column for shard in receipt.shards for column in shard.cells.columns().values())
        self._fold_when_many(sum(column.nbytes for column in cells))

    def table(self) -> Columns:
        """A row a shard, by the names of `COLUMNS`, in the order in which `cells` gives them."""
        blocks = [*self._blocks, *self._loose_block()]
        empty = {name: np.zeros(0, np.uint64 if name == "xxh3" else np.int64) for name in COLUMNS}
        return {
            name: np.concatenate([empty[name], *(block.columns[name] for block in blocks)])
            for name in COLUMNS
        }

    def cells(self) -> Iterator[Mapping[str, pa.LargeBinaryArray]]:
        """The cells of the shards, some hundred receipts at a time, read from the store again.

        Raises:
            DatasetError: a part says something else than before.
        """
        yield from self._cells_of([block for block in self._blocks if block.key])
        for block in (*(b for b in self._blocks if not b.key), *self._loose_block()):
            yield _chosen(ReceiptColumns.of(block.batch, self.plan), block)

    def _cells_of(self, blocks: Sequence[_Block]) -> Iterator[Mapping[str, pa.LargeBinaryArray]]:
        datas = read_ahead(self.store, (block.key for block in blocks))
        for block, (key, data) in zip(blocks, datas, strict=True):
            if not _is_whole(key, data):
                raise DatasetError(
                    f"{self.store.uri}/{key} changed while the dataset was committed: run again"
                )
            yield _chosen(ReceiptColumns.parse(data, self.plan), block)

    def _take(
        self,
        columns: ReceiptColumns,
        shards: ListedShards | None,
        *,
        key: str = "",
        batch: pa.RecordBatch | None = None,
    ) -> None:
        taken = self._trusted(columns, shards)
        if self._count(columns, taken):
            self._blocks.append(self._block(columns, taken, key, batch))

    def _take_single(self, columns: ReceiptColumns, shards: ListedShards | None, data: Any) -> None:
        if len(columns.unit) != 1:
            return
        if int(columns.unit[0]) in self.units:
            # Folded before, by a driver that was killed in between.
            self.store.delete(receipt_key(self.plan, int(columns.unit[0])))
        elif self._count(columns, self._trusted(columns, shards)):
            self._loose_batches.append(pa.ipc.open_file(pa.BufferReader(data)).get_batch(0))
            self._fold_when_many(len(data))

    def _fold_when_many(self, more_bytes: int) -> None:
        self._loose_bytes += more_bytes
        many = len(self._loose) + len(self._loose_batches) >= FOLDED_TOGETHER
        if many or self._loose_bytes > _FOLDED_BYTES:
            [block] = self._loose_block()
            key = fold(self.store, self.plan, block.batch)
            self._blocks.append(_Block(block.columns, None, key))
            self._loose, self._loose_batches, self._loose_bytes = [], [], 0

    def _loose_block(self) -> list[_Block]:
        """What was not folded yet, in memory, as one block."""
        batches = [*self._loose_batches, *([to_batch(self._loose)] if self._loose else [])]
        if not batches:
            return []
        batch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        columns = ReceiptColumns.of(batch, self.plan)
        return [self._block(columns, np.ones(len(columns.unit), np.bool_), "", batch)]

    def _trusted(
        self, columns: ReceiptColumns, shards: ListedShards | None
    ) -> npt.NDArray[np.bool_]:
        """bool [receipts]: new ones, the first of each unit, whose shards are there."""
        numbers = columns.numbers
        good = np.ones(len(columns.unit), np.bool_)
        if shards is not None:
            owner = np.repeat(np.arange(len(good)), columns.shards)
            there = shards.hold(numbers["unit"], numbers["part"], numbers["bytes"])
            good = np.bincount(owner[~there], minlength=len(good)) == 0
        candidates = np.flatnonzero(good)
        _, firsts = np.unique(columns.unit[candidates], return_index=True)
        taken = np.zeros(len(good), np.bool_)
        taken[candidates[firsts]] = True
        known = (unit in self.units for unit in columns.unit.tolist())
        return taken & ~np.fromiter(known, np.bool_, len(good))

    def _count(self, columns: ReceiptColumns, taken: npt.NDArray[np.bool_]) -> bool:
        """Adds the counts of the receipts that are taken; whether there is any."""
        self.units.update(columns.unit[taken].tolist())
        apart = taken & (columns.counts["quarantined"] > 0)
        self.quarantined.extend(columns.unit[apart].tolist())
        sums = {name: int(values[taken].sum()) for name, values in columns.counts.items()}
        self.counts += Counts(**sums)
        return bool(taken.any())

    def _block(
        self,
        columns: ReceiptColumns,
        taken: npt.NDArray[np.bool_],
        key: str,
        batch: pa.RecordBatch | None,
    ) -> _Block:
        kept = None if taken.all() else np.repeat(taken, columns.shards)
        found: dict[str, npt.NDArray[Any]] = {
            **columns.numbers,
            "split": _coded(columns.splits, self.splits),
            "source": _coded(columns.sources, self.sources),
        }
        chosen = slice(None) if kept is None else kept
        # A copy: a view would keep the whole file, cells and all.
        return _Block({name: found[name][chosen].copy() for name in COLUMNS}, kept, key, batch)


def _chosen(columns: ReceiptColumns, block: _Block) -> Mapping[str, pa.LargeBinaryArray]:
    if block.kept is None:
        return columns.cells
    kept = pa.array(block.kept)
    return {name: column.filter(kept) for name, column in columns.cells.items()}


def _coded(texts: pa.StringArray, names: list[str]) -> Ints:
    """The place of each text in `names`, which grows by those that are new."""
    encoded = texts.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    names.extend(word for word in words if word not in names)
    places = np.array([names.index(word) for word in words], np.int64)
    return places[encoded.indices.to_numpy()] if words else np.zeros(0, np.int64)


def fold(store: Store, plan: str, batch: pa.RecordBatch) -> str:
    """Writes receipts together as one part, then removes those of the single units; its key."""
    data = to_ipc(batch)
    key = f"receipts/{plan}/{part_name(data)}"
    store.write(key, memoryview(data))
    store.delete_many([receipt_key(plan, unit) for unit in batch.column("unit").to_pylist()])
    return key


def part_name(data: Any) -> str:
    """The name of a part: it tells whether the part is whole."""
    return f"part-{xxh3(data):016x}.arrow"


def _is_whole(key: str, data: bytes | None) -> bool:
    return data is not None and key.endswith(f"/{part_name(data)}")


def read_ahead(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Objects in order, some of them on their way while one is used; None for a missing one."""

    def get(key: str) -> bytes | None:
        try:
            return store.read(key)
        except MissingObject:
            return None

    waiting = iter(keys)
    with ThreadPoolExecutor(_READ_AHEAD, "read-ahead") as pool:
        running = [(key, pool.submit(get, key)) for key in islice(waiting, _READ_AHEAD)]
        while running:
            key, future = running.pop(0)
            yield key, future.result()
            running.extend((key, pool.submit(get, key)) for key in islice(waiting, 1))


def shard_number(unit: Number, part: Number) -> Number:
    """One number for a shard of a plan."""
    return unit << 24 | part


@dataclass(frozen=True)
class ListedShards:
    """The shards of a plan as one listing shows them.

    Attributes:
        names: int64, sorted: what `shard_number` makes of unit and part.
        sizes: int64, bytes.
    """

    names: Ints = field(repr=False)
    sizes: Ints = field(repr=False)

    @classmethod
    def of(cls, store: Store, plan: str, units: int) -> Self:
        """Lists `shards/<plan>/` once; several parts of it side by side where it is long.

        Args:
            units: of the plan; shards of further ones aren't looked for.
        """
        prefix = f"shards/{plan}/"
        # Units have eight digits: a prefix of four is ten thousand of them.
        parts = [f"{n:04d}" for n in range(-(-units // 10_000))] if units > 20_000 else [""]
        names, sizes = [], []
        for entry in store.list_many([prefix + part for part in parts]):
            unit, _, part = entry.key[len(prefix) : -6].partition("-")
            if unit.isdigit() and part.isdigit() and entry.key.endswith(".arrow"):
                names.append(shard_number(int(unit), int(part)))
                sizes.append(entry.size)
        found = np.array(names, np.int64)
        order = found.argsort()
        return cls(found[order], np.array(sizes, np.int64)[order])

    def hold(self, unit: Ints, part: Ints, size: Ints) -> npt.NDArray[np.bool_]:
        """bool [n]: whether each of these shards is there, and as large."""
        if not len(self.names):
            return np.zeros(len(unit), np.bool_)
        wanted = shard_number(unit, part)
        places = np.searchsorted(self.names, wanted).clip(max=len(self.names) - 1)
        found: npt.NDArray[np.bool_] = self.names[places] == wanted
        found &= self.sizes[places] == size
        return found
