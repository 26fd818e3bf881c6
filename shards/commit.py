"""Receipts -> tables -> manifest: the moment in which a dataset begins to exist.

Memory grows with the shards (a hundred bytes each), not with their cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from shards.dataset import Dataset, Index
from shards.errors import DatasetError
from shards.format import CELL_BYTES
from shards.ledger import Columns, Ledger
from shards.manifest import MANIFEST, DocumentRules, Manifest, Tables, TokenizerInfo, read_manifest
from shards.receipt import Counts, Ints, Receipt, binary_runs
from shards.spool import SpooledTable, spooled_table
from shards.store import Store
from shards.tables import CELL_COLUMNS, INDEX_COLUMNS, TableInfo, read_table, write_table

_COPIED_BYTES = 16 << 20


class AnyInput(Protocol):
    """An input as the plan saw it; `InputFile` is one."""

    @property
    def uri(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def etag(self) -> str: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class InputFile:
    """An input as the plan saw it."""

    uri: str
    size: int
    etag: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a commit knows besides the receipts; see `Manifest` for the words.

    Attributes:
        tokenizer_json: the serialized tokenizer; kept beside the manifest.
    """

    dtype: Literal["uint16", "uint32"]
    tokenizer: TokenizerInfo
    tokenizer_json: str
    engine: str
    engine_reason: str
    libraries: Mapping[str, str]
    rules: Mapping[str, DocumentRules] = field(default_factory=dict)


def commit(
    store: Store,
    description: Description,
    receipts: Ledger | Iterable[Receipt],
    inputs: Sequence[AnyInput],
    *,
    after: Dataset | None = None,
) -> Manifest:
    """Writes the tables, then the manifest. Twice the same receipts, twice the same bytes.

    Args:
        receipts: of one plan.
        after: the dataset that lies there, if it is to be continued: its shards come first, so its
            token stream is the beginning of the new one.

    Raises:
        DatasetError: counts that don't add up, or no document in any shard.
    """
    manifest = write_tables(store, description, receipts, inputs, after=after)
    store.write(MANIFEST, manifest.to_json())
    return manifest


def publish(store: Store, manifest: Manifest, *, instead_of: Manifest | None) -> None:
    """The last step of a commit where others may have committed too: writes the manifest.

    Args:
        instead_of: the manifest that the job found when it began.

    Raises:
        DatasetError: another one lies there now, and it isn't this one already.
    """
    found = read_manifest(store)
    if found not in (instead_of, manifest):
        plans = ", ".join(found.plans) if found is not None else "none"
        raise DatasetError(
            f"{store.uri}/{MANIFEST} changed while this job ran (it names plans {plans} now): "
            "another job has committed there. Run the same command again: finished units are kept"
        )
    store.write(MANIFEST, manifest.to_json())


def write_tables(
    store: Store,
    description: Description,
    receipts: Ledger | Iterable[Receipt],
    inputs: Sequence[AnyInput],
    *,
    after: Dataset | None = None,
) -> Manifest:
    """All of `commit` but its last step: the manifest is returned, and not written."""
    ledger = receipts if isinstance(receipts, Ledger) else Ledger.of(store, receipts)
    old = after.manifest if after is not None else None
    came = ledger.table()
    order = np.lexsort((came["part"], came["unit"]))
    table = {name: column[order] for name, column in came.items()}
    _check(ledger.counts, table, old, np.dtype(description.dtype).itemsize)
    splits = sorted({*ledger.splits, *(old.splits if old else ())})
    sources = sorted({*ledger.sources, *(old.sources if old else ())})
    index = _index(table, ledger, splits, sources, after)
    masked = bool(index.loss_mask_at[0])
    manifest = Manifest(
        dtype=description.dtype,
        loss_mask=masked,
        tokenizer=description.tokenizer,
        engine=_joined(old.engine if old else "", description.engine),
        engine_reason=_joined(old.engine_reason if old else "", description.engine_reason),
        plans=(*(old.plans if old else ()), ledger.plan),
        splits=tuple(splits),
        sources=tuple(sources),
        totals=index.totals(splits, sources),
        counts=ledger.counts + (old.counts if old else Counts()),
        tables=Tables(
            index=_write_index(store, index),
            cells=_write_cells(store, ledger, order, CELL_COLUMNS[: 4 if masked else 3], after),
            inputs=_write_inputs(store, inputs, after),
        ),
        libraries=_libraries(description.libraries, old.libraries if old else {}),
        rules=dict(sorted({**(old.rules if old else {}), **description.rules}.items())),
    )
    store.write(manifest.tokenizer.file, description.tokenizer_json.encode())
    return manifest


def _check(counts: Counts, table: Columns, old: Manifest | None, width: int) -> None:
    if not counts.add_up:
        raise DatasetError(f"rows are missing: {counts}")
    written = int(table["tokens"].sum()), int(table["documents"].sum())
    if written != (counts.tokens, counts.documents):
        raise DatasetError(f"shards hold {written} tokens and documents, receipts say {counts}")
    if not len(table["unit"]) and old is None:
        raise DatasetError("the input holds no document at all: there is no dataset to commit")
    masked = table["loss_mask_at"] > 0
    if len(masked) and masked.any() != masked.all():
        raise DatasetError("some shards have a loss mask and some have none")
    if old is not None and len(masked) and old.loss_mask != masked[0]:
        raise DatasetError("only one of the dataset and what is appended has a loss mask")
    wrong = table["cells"] != -(-table["tokens"] // (CELL_BYTES // width))
    if wrong.any():
        raise DatasetError(f"the receipt of unit {table['unit'][wrong][0]} has too few cells")


def _index(
    table: Columns,
    ledger: Ledger,
    splits: Sequence[str],
    sources: Sequence[str],
    after: Dataset | None,
) -> Index:
    """The index in the order of the token stream: generation, unit, part."""
    number = len(after.manifest.plans) if after is not None else 0
    columns: dict[str, npt.NDArray[Any]] = {
        **table,
        "plan": np.full(len(table["unit"]), number, np.int64),
        "split": _renumbered(table["split"], ledger.splits, splits),
        "source": _renumbered(table["source"], ledger.sources, sources),
    }
    if after is not None:
        old = {name: getattr(after.index, name) for name in INDEX_COLUMNS}
        old["split"] = _renumbered(old["split"], after.manifest.splits, splits)
        old["source"] = _renumbered(old["source"], after.manifest.sources, sources)
        columns = {name: np.concatenate([old[name], columns[name]]) for name in INDEX_COLUMNS}
    return Index(
        **{name: columns[name] for name in INDEX_COLUMNS}, first_cell=np.zeros(1, np.int64)
    )


def _renumbered(places: Ints, before: Sequence[str], now: Sequence[str]) -> Ints:
    return np.array([now.index(name) for name in before], np.int64)[places]


def _joined(before: str, now: str) -> str:
    """What is true of every generation: one text, or each of them, in order."""
    texts = before.split("; ") if before else []
    return "; ".join([*texts, *(text for text in now.split("; ") if text not in texts)])


def _libraries(now: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    names = sorted({*now, *before})
    return {name: _joined(before.get(name, ""), now.get(name, "")).strip("; ") for name in names}


def _write_index(store: Store, index: Index) -> TableInfo:
    columns = {
        name: pa.array(getattr(index, name).astype(dtype)) for name, dtype in INDEX_COLUMNS.items()
    }
    return write_table(store, "index", columns)


def _write_cells(
    store: Store, ledger: Ledger, order: Ints, names: Sequence[str], after: Dataset | None
) -> TableInfo:
    """The cells of `after`, then those of the ledger, each shard's at its place in the index.

    Args:
        order: the ledger's shards as the index has them.
    """
    counts = ledger.table()["cells"][order]
    first = after.manifest.tables.cells.rows if after is not None else 0
    firsts = np.empty(len(order), np.int64)
    firsts[order] = first + np.cumsum(counts) - counts
    with spooled_table(store, names, first + int(counts.sum())) as spool:
        if after is not None:
            _copy_cells(after, names, spool)
        done = 0
        for cells in ledger.cells():
            shards = len(cells[names[0]])
            for name in names:
                _scatter(spool, name, cells[name], firsts[done : done + shards])
            done += shards
        return spool.save(store, "cells")


def _scatter(spool: SpooledTable, name: str, cells: pa.LargeBinaryArray, firsts: Ints) -> None:
    """Writes each shard's cells from its first row on; shards that follow each other at once."""
    data, offsets = binary_runs(cells)
    counts = np.diff(offsets) // 8
    breaks = np.flatnonzero(firsts[1:] != firsts[:-1] + counts[:-1]) + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(firsts)], strict=True):
        if start < stop:
            spool.put(name, int(firsts[start]), data[offsets[start] : offsets[stop]])


def _copy_cells(dataset: Dataset, names: Sequence[str], spool: SpooledTable) -> None:
    """The rows of a dataset's cells to the beginning of the new table; read once and verified."""
    info, digest = dataset.manifest.tables.cells, xxhash.xxh3_64()
    columns = {name: dataset.cells.byte_range(name, 0, info.rows) for name in names}
    for start in range(0, info.bytes, _COPIED_BYTES):
        stop = min(start + _COPIED_BYTES, info.bytes)
        data = memoryview(dataset.store.read(info.name, start, stop))
        digest.update(data)
        for name, (first, last) in columns.items():
            a, b = max(first, start), min(last, stop)
            if a < b:
                spool.put_bytes(name, a - first, data[a - start : b - start])
    if digest.hexdigest() != info.xxh3:
        raise DatasetError(
            f"{dataset.uri}/{info.name} is not the table that the manifest names: its checksum "
            "differs. Restore it before you append"
        )


def _write_inputs(store: Store, inputs: Sequence[AnyInput], after: Dataset | None) -> TableInfo:
    columns = {
        "uri": pa.array([item.uri for item in inputs], pa.large_string()),
        "size": pa.array([item.size for item in inputs], pa.uint64()),
        "etag": pa.array([item.etag for item in inputs], pa.large_string()),
        "source": pa.array([item.source for item in inputs], pa.large_string()),
    }
    if after is not None:
        old = read_table(after.store, after.manifest.tables.inputs)
        columns = {
            name: pa.concat_arrays([old.column(name), column]) for name, column in columns.items()
        }
    return write_table(store, "inputs", columns)
