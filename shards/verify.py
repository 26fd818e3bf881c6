"""Every checksum of a dataset: does each byte say what was written?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from shards.dataset import Dataset, open_dataset
from shards.errors import CorruptShard, DatasetError, MissingObject
from shards.format import Cells, parse_shard, xxh3
from shards.tables import read_table


@dataclass(frozen=True)
class Verified:
    """What was found to be whole."""

    uri: str
    shards: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.uri}: {self.shards:,} shards, {self.bytes:,} bytes, every checksum right"


def verify(uri: str, *, show_progress: bool = False) -> Verified:
    """Reads all of a dataset and checks it.

    Raises:
        CorruptShard: names every broken shard, up to ten.
        DatasetError: the tables are broken.
    """
    dataset = open_dataset(uri)
    read_table(dataset.store, dataset.manifest.tables.inputs)
    _check_tokenizer(dataset)
    total = int(dataset.index.bytes.sum())
    broken: list[str] = []
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="verify", disable=not show_progress
    ) as bar:
        for shard, fault in _faults(dataset):
            if fault:
                broken.append(f"{dataset.uri}/{dataset.path(shard)}: {fault}")
            bar.update(int(dataset.index.bytes[shard]))
    if broken:
        more = f"\nand {len(broken) - 10} more" if len(broken) > 10 else ""
        raise CorruptShard("\n".join(broken[:10]) + f"{more}\n{_cure(dataset)}")
    return Verified(dataset.uri, len(dataset.index), total)


def _cure(dataset: Dataset) -> str:
    if len(dataset.manifest.plans) > 1:
        return "Restore what is broken, or tokenize everything anew with --overwrite"
    return "Delete what is broken and run the tokenize job again: it writes just that"


def _check_tokenizer(dataset: Dataset) -> None:
    info = dataset.manifest.tokenizer
    if hashlib.sha256(dataset.store.read(info.file)).hexdigest() != info.fingerprint:
        raise DatasetError(f"{dataset.uri}/{info.file} is not the tokenizer that made the tokens")


def _faults(dataset: Dataset) -> Iterator[tuple[int, str]]:
    for shard in range(len(dataset.index)):
        try:
            data = dataset.store.read(dataset.path(shard))
        except MissingObject:
            yield shard, "missing"
            continue
        yield shard, _fault(dataset, shard, data)


def _fault(dataset: Dataset, shard: int, data: bytes) -> str:
    """What is wrong with a shard's bytes, or an empty text."""
    index = dataset.index
    if len(data) != index.bytes[shard]:
        return f"{len(data)} bytes, {index.bytes[shard]} were written: cut short?"
    if xxh3(data) != index.xxh3[shard]:
        return "the file's checksum differs: a byte was changed"
    try:
        content = parse_shard(pa.py_buffer(data))
    except DatasetError as error:
        return str(error)
    layout = content.layout
    if (layout.tokens_at, layout.documents_at, layout.loss_mask_at) != (
        index.tokens_at[shard],
        index.documents_at[shard],
        index.loss_mask_at[shard],
    ) or (len(content.tokens), len(content.offsets) - 1) != (
        index.tokens[shard],
        index.documents[shard],
    ):
        return "the index describes another file"
    rows = int(index.first_cell[shard]), int(index.first_cell[shard + 1])
    cells = Cells.of(content.offsets, content.tokens, content.loss_mask)
    for name, values in cells.columns().items():
        if not np.array_equal(dataset.cells.read(name, *rows), values):
            return f"the cells table has other values of {name}"
    return ""
