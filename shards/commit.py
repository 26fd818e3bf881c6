"""Receipts -> tables -> manifest: the moment in which a dataset begins to exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import pyarrow as pa

from shards.errors import DatasetError
from shards.manifest import MANIFEST, DocumentRules, Manifest, Tables, TokenizerInfo, Totals
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import Store
from shards.tables import CELL_COLUMNS, INDEX_COLUMNS, TableInfo, write_table


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
    receipts: Iterable[Receipt],
    inputs: Sequence[InputFile],
) -> Manifest:
    """Writes the tables, then the manifest. Twice the same receipts, twice the same bytes.

    Raises:
        DatasetError: counts that don't add up, or no document in any shard.
    """
    ordered = sorted(receipts, key=lambda receipt: receipt.unit)
    shards = sorted(
        (shard for receipt in ordered for shard in receipt.shards),
        key=lambda shard: (shard.plan, shard.unit, shard.part),
    )
    counts = reduce(add, (receipt.counts for receipt in ordered), Counts())
    _check(counts, shards)
    plans, splits, sources = (
        sorted({getattr(shard, name) for shard in shards}) for name in ("plan", "split", "source")
    )
    manifest = Manifest(
        dtype=description.dtype,
        loss_mask=shards[0].loss_mask_at > 0,
        tokenizer=description.tokenizer,
        engine=description.engine,
        engine_reason=description.engine_reason,
        plans=tuple(plans),
        splits=tuple(splits),
        sources=tuple(sources),
        totals=_totals(shards),
        counts=counts,
        tables=Tables(
            index=_write_index(store, shards, {"plan": plans, "split": splits, "source": sources}),
            cells=_write_cells(store, shards),
            inputs=_write_inputs(store, inputs),
        ),
        libraries=dict(sorted(description.libraries.items())),
        rules=dict(sorted(description.rules.items())),
    )
    store.write(manifest.tokenizer.file, description.tokenizer_json.encode())
    store.write(MANIFEST, manifest.to_json())
    return manifest


def _check(counts: Counts, shards: Sequence[ShardRecord]) -> None:
    if not counts.add_up:
        raise DatasetError(f"rows are missing: {counts}")
    written = sum(shard.tokens for shard in shards), sum(shard.documents for shard in shards)
    if written != (counts.tokens, counts.documents):
        raise DatasetError(f"shards hold {written} tokens and documents, receipts say {counts}")
    if not shards:
        raise DatasetError("the input holds no document at all: there is no dataset to commit")
    if len({shard.loss_mask_at > 0 for shard in shards}) > 1:
        raise DatasetError("some shards have a loss mask and some have none")


def _totals(shards: Sequence[ShardRecord]) -> dict[str, dict[str, Totals]]:
    sums: dict[str, dict[str, list[int]]] = {}
    for shard in shards:
        cell = sums.setdefault(shard.split, {}).setdefault(shard.source, [0, 0, 0, 0])
        for place, value in enumerate((1, shard.documents, shard.tokens, shard.bytes)):
            cell[place] += value
    return {
        split: {
            source: Totals(shards=n, documents=documents, tokens=tokens, bytes=size)
            for source, (n, documents, tokens, size) in sorted(by_source.items())
        }
        for split, by_source in sorted(sums.items())
    }


def _write_index(
    store: Store, shards: Sequence[ShardRecord], names: Mapping[str, list[str]]
) -> TableInfo:
    numbers = {column: {name: i for i, name in enumerate(found)} for column, found in names.items()}
    return write_table(
        store,
        "index",
        {
            column: pa.array(
                [
                    numbers[column][getattr(shard, column)]
                    if column in numbers
                    else getattr(shard, column)
                    for shard in shards
                ],
                pa.type_for_alias(dtype),
            )
            for column, dtype in INDEX_COLUMNS.items()
        },
    )


def _write_cells(store: Store, shards: Sequence[ShardRecord]) -> TableInfo:
    present = [name for name in CELL_COLUMNS if getattr(shards[0].cells, name) is not None]
    return write_table(
        store,
        "cells",
        {
            name: pa.array(np.concatenate([getattr(shard.cells, name) for shard in shards]))
            for name in present
        },
    )


def _write_inputs(store: Store, inputs: Sequence[InputFile]) -> TableInfo:
    return write_table(
        store,
        "inputs",
        {
            "uri": pa.array([item.uri for item in inputs], pa.large_string()),
            "size": pa.array([item.size for item in inputs], pa.uint64()),
            "etag": pa.array([item.etag for item in inputs], pa.large_string()),
            "source": pa.array([item.source for item in inputs], pa.large_string()),
        },
    )
