"""Open, validate, concatenate: a dataset as token streams. Everything that is read is untrusted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.errors import CorruptShard, DatasetError
from shards.format import CELL_BYTES, Checksums, Tokens, shard_path, xxh3
from shards.manifest import MANIFEST, PLAN_KEY, Manifest, Totals, read_manifest
from shards.store import Bytes, Store, open_store
from shards.tables import INDEX_COLUMNS, CellTable, read_table, uint_column

Ints = npt.NDArray[np.int64]


def open_dataset(uri: str) -> Dataset:
    """Opens the token dataset at `s3://bucket/prefix` or a path: its manifest and index.

    Raises:
        DatasetError: no dataset there, or one whose tables contradict each other.
        StoreError: the store can't be reached or refuses.
    """
    store = open_store(uri)
    manifest = read_manifest(store)
    if manifest is None:
        raise no_dataset(store.uri, begun=store.exists(PLAN_KEY))
    index = read_table(store, manifest.tables.index)
    return Dataset(store, manifest, Index.of(index, manifest, store.uri))


def no_dataset(uri: str, *, begun: bool) -> DatasetError:
    """The error for a store without a manifest; `begun`: there is the plan of a job."""
    if begun:
        why = (
            f"there is a {PLAN_KEY} and no {MANIFEST} yet, which a tokenize job writes last. Wait "
            "for its end, or start it again to finish it"
        )
    elif uri.startswith("s3://"):
        why = f"there is no {uri}/{MANIFEST}. Is the uri right?"
    elif os.path.isdir(uri):
        why = f"there is no {MANIFEST} in this folder. Is the path right?"
    else:
        above = os.path.dirname(uri)
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        why = f"nothing is there. The nearest folder that exists is {above}: is the path right?"
    return DatasetError(f"{uri} holds no token dataset: {why}")


@dataclass(frozen=True)
class Index:
    """One row a shard, int64 [shards] a column, in the order of the token stream.

    Attributes:
        plan, split, source: numbers of the manifest's lists.
        tokens_at, documents_at, loss_mask_at: byte offsets in the shard file.
        xxh3: uint64, of the whole file.
        first_cell: [shards + 1], rows of the cells table before each shard.
    """

    plan: Ints
    unit: Ints
    part: Ints
    split: Ints
    source: Ints
    bytes: Ints
    tokens: Ints
    documents: Ints
    tokens_at: Ints
    documents_at: Ints
    loss_mask_at: Ints
    xxh3: Checksums
    first_cell: Ints

    def __len__(self) -> int:
        return len(self.bytes)

    @classmethod
    def of(cls, batch: pa.RecordBatch, manifest: Manifest, uri: str) -> Index:
        """From the table's rows, each of them checked against the manifest of the dataset at `uri`.

        Raises:
            DatasetError: they contradict each other.
        """
        where = f"{uri}/{manifest.tables.index.name}"
        columns = {
            name: uint_column(batch, name, dtype, where) for name, dtype in INDEX_COLUMNS.items()
        }
        cell_tokens = CELL_BYTES // np.dtype(manifest.dtype).itemsize
        cells = -(-columns["tokens"] // cell_tokens)
        index = cls(**columns, first_cell=np.concatenate([np.zeros(1, np.int64), cells.cumsum()]))  # type: ignore[arg-type]
        index._check(manifest, where)
        return index

    def _check(self, manifest: Manifest, where: str) -> None:
        width = np.dtype(manifest.dtype).itemsize
        mask_end = self.loss_mask_at + self.tokens if manifest.loss_mask else 0 * self.tokens
        rules = {
            "names a plan that the manifest lacks": self.plan >= len(manifest.plans),
            "names a split that the manifest lacks": self.split >= len(manifest.splits),
            "names a source that the manifest lacks": self.source >= len(manifest.sources),
            "has no tokens": (self.tokens < 1) | (self.documents < 1),
            "has tokens beyond its file": self.tokens_at + self.tokens * width > self.bytes,
            "has document offsets beyond its file": self.documents_at + (self.documents + 1) * 8
            > self.bytes,
            "has a loss mask beyond its file": mask_end > self.bytes,
            "has runs that begin inside the file's head": (self.tokens_at < 8)
            | (self.documents_at < 8)
            | (manifest.loss_mask & (self.loss_mask_at < 8)),
            "is out of order": np.concatenate([[False], ~self._rises()]),
        }
        for words, wrong in rules.items():
            if wrong.any():
                raise DatasetError(f"{where}: row {int(wrong.argmax())} {words}")
        if self.first_cell[-1] != manifest.tables.cells.rows:
            raise DatasetError(
                f"{where} needs {self.first_cell[-1]} cells, {manifest.tables.cells.name} has "
                f"{manifest.tables.cells.rows}"
            )
        if self.totals(manifest.splits, manifest.sources) != manifest.totals:
            raise DatasetError(f"{where} and the totals in {MANIFEST} differ")

    def _rises(self) -> npt.NDArray[np.bool_]:
        rises = self.part[1:] > self.part[:-1]
        for column in (self.unit, self.plan):
            rises = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & rises)
        return rises

    def totals(self, splits: Sequence[str], sources: Sequence[str]) -> dict[str, dict[str, Totals]]:
        """Sums by split and source, as the manifest has them."""
        found: dict[str, dict[str, Totals]] = {}
        for i, split in enumerate(splits):
            for j, source in enumerate(sources):
                rows = (self.split == i) & (self.source == j)
                if rows.any():
                    found.setdefault(split, {})[source] = Totals(
                        shards=int(rows.sum()),
                        documents=int(self.documents[rows].sum()),
                        tokens=int(self.tokens[rows].sum()),
                        bytes=int(self.bytes[rows].sum()),
                    )
        return found


@dataclass(frozen=True)
class Dataset:
    """A token dataset that was opened and validated. Pickles; holds no connection."""

    store: Store
    manifest: Manifest
    index: Index
    cells: CellTable = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", CellTable(self.store, self.manifest.tables.cells))

    @property
    def uri(self) -> str:
        """Where it lies, normalized."""
        return self.store.uri

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """Of the stored tokens."""
        return np.dtype(self.manifest.dtype)

    @cached_property
    def id(self) -> str:
        """16 hex digits of the manifest's hash: the same content, the same id, wherever it lies."""
        return hashlib.sha256(self.manifest.to_json()).hexdigest()[:16]

    def path(self, shard: int) -> str:
        """Key of the shard in row `shard` of the index."""
        index = self.index
        plan = self.manifest.plans[index.plan[shard]]
        return shard_path(plan, int(index.unit[shard]), int(index.part[shard]))

    def stream(self, split: str = "train", source: str | None = None) -> Stream:
        """The tokens of a split, of all sources or of one, one shard after the other.

        Raises:
            DatasetError: no such split or source; the message lists those there are.
        """
        manifest = self.manifest
        if split not in manifest.splits:
            raise DatasetError(
                f"{self.uri} has no split {split!r}; it has {', '.join(manifest.splits)}"
            )
        chosen = self.index.split == manifest.splits.index(split)
        if source is not None:
            if source not in manifest.totals[split]:
                raise DatasetError(
                    f"{self.uri} has no source {source!r} in split {split!r}; it has "
                    f"{', '.join(manifest.totals[split])}"
                )
            chosen = chosen & (self.index.source == manifest.sources.index(source))
        return Stream(self, np.flatnonzero(chosen))


class Stream:
    """The concatenated tokens of some shards of a dataset.

    Attributes:
        shards: int64 [n], rows of the index.
        starts: int64 [n + 1], position in the stream of each shard's first token.
        tokens, documents: in all.
    """

    def __init__(self, dataset: Dataset, shards: Ints) -> None:
        self.dataset = dataset
        self.shards = shards
        self.starts = np.concatenate([np.zeros(1, np.int64), dataset.index.tokens[shards].cumsum()])
        self.tokens = int(self.starts[-1])
        self.documents = int(dataset.index.documents[shards].sum())

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """Of the stored tokens."""
        return self.dataset.dtype

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """What to read for tokens [start, stop) of the stream: a piece for each shard it touches.

        Raises:
            IndexError: a range that isn't inside the stream.
        """
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start}-{stop} of a stream of {self.tokens}")
        pieces: list[Piece] = []
        place = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            first = int(self.starts[place])
            end = min(stop, int(self.starts[place + 1]))
            pieces.append(self._piece(int(self.shards[place]), start - first, end - first))
            start, place = end, place + 1
        return pieces

    def _piece(self, shard: int, start: int, stop: int) -> Piece:
        index, dtype = self.dataset.index, self.dtype
        step = CELL_BYTES // dtype.itemsize
        first, last = start // step, -(-stop // step)
        covered = min(last * step, int(index.tokens[shard]))
        tokens_at, first_cell = int(index.tokens_at[shard]), int(index.first_cell[shard])
        mask_at = int(index.loss_mask_at[shard])
        return Piece(
            shard=shard,
            uri=self.dataset.uri,
            path=self.dataset.path(shard),
            dtype=dtype,
            start=start,
            stop=stop,
            byte_start=tokens_at + first * CELL_BYTES,
            byte_stop=tokens_at + covered * dtype.itemsize,
            mask_start=mask_at + first * step,
            mask_stop=mask_at + covered,
            cell_start=first_cell + first,
            cell_stop=first_cell + last,
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A token range of one shard, and the bytes that hold it, rounded outward to cells.

    Attributes:
        shard: row of the index.
        path: key of the shard below `uri`.
        start, stop: token numbers in the shard.
        byte_start, byte_stop: of the tokens, in the shard file.
        mask_start, mask_stop: of the loss mask, likewise; meaningless where there is none.
        cell_start, cell_stop: rows of the cells table.
    """

    shard: int
    uri: str
    path: str
    dtype: np.dtype[np.uint16] | np.dtype[np.uint32]
    start: int
    stop: int
    byte_start: int
    byte_stop: int
    mask_start: int
    mask_stop: int
    cell_start: int
    cell_stop: int

    def tokens(self, data: Bytes, checksums: Checksums) -> Tokens:
        """Tokens [start, stop), a view of `data`.

        Args:
            data: bytes [byte_start, byte_stop) of the shard.
            checksums: rows [cell_start, cell_stop) of `tokens_xxh3`.

        Raises:
            CorruptShard: too few bytes, or a cell whose checksum differs.
        """
        self._verify(data, checksums, self.byte_start, self.byte_stop, CELL_BYTES)
        skip = self.start % (CELL_BYTES // self.dtype.itemsize)
        tokens: Tokens = np.frombuffer(data, self.dtype)  # type: ignore[assignment]
        return tokens[skip : skip + self.stop - self.start]

    def mask(self, data: Bytes, checksums: Checksums) -> npt.NDArray[np.uint8]:
        """The loss mask of tokens [start, stop), likewise, by `loss_mask_xxh3`."""
        step = CELL_BYTES // self.dtype.itemsize
        self._verify(data, checksums, self.mask_start, self.mask_stop, step)
        skip = self.start % step
        return np.frombuffer(data, np.uint8)[skip : skip + self.stop - self.start]

    def _verify(self, data: Bytes, checksums: Checksums, start: int, stop: int, step: int) -> None:
        view = memoryview(data)
        if view.nbytes != stop - start:
            raise CorruptShard(
                f"{self.uri}/{self.path} bytes {start}-{stop}: {view.nbytes} bytes came, not "
                f"{stop - start}. Is the shard cut short?"
            )
        for number, expected in enumerate(checksums.tolist()):
            at = number * step
            if xxh3(view[at : at + step]) != expected:
                raise CorruptShard(
                    f"{self.uri}/{self.path} bytes {start + at}-{min(start + at + step, stop)}: "
                    "the checksum differs. Restore the shard, or delete it and tokenize again"
                )
