"""Which documents lie in a stretch of the token stream, and what was kept beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import Dataset, Ints, Stream
from shards.errors import CorruptShard, DatasetError
from shards.format import CELL_BYTES, LOSS_MASK, TOKENS, xxh3
from shards.manifest import DocumentRules
from shards.store import Store


@dataclass(frozen=True)
class Excerpt:
    """Tokens [start, stop) of a document of `tokens` tokens.

    Attributes:
        shard: row of the index; `path` is its key below the dataset.
        document: number in the shard.
    """

    shard: int
    path: str
    document: int
    start: int
    stop: int
    tokens: int


def excerpts(stream: Stream, start: int, stop: int) -> list[Excerpt]:
    """What tokens [start, stop) of a stream are made of, in order; documents of no tokens aside.

    Reads the documents' offsets around the stretch, not its tokens.

    Raises:
        IndexError: a range that isn't inside the stream.
        CorruptShard: offsets with another checksum than the dataset's.
    """
    found: list[Excerpt] = []
    place = int(np.searchsorted(stream.starts, start, side="right")) - 1
    for number, piece in enumerate(stream.pieces(start, stop)):
        shard = int(stream.shards[place + number])
        first, offsets = _offsets(stream.dataset, shard, piece.start, piece.stop)
        low = np.searchsorted(offsets, piece.start, side="right") - 1
        high = np.searchsorted(offsets, piece.stop)
        for document in range(int(low), int(high)):
            begin, end = int(offsets[document]), int(offsets[document + 1])
            left, right = max(piece.start, begin), min(piece.stop, end)
            if left < right:
                found.append(
                    Excerpt(
                        shard=shard,
                        path=piece.path,
                        document=first + document,
                        start=left - begin,
                        stop=right - begin,
                        tokens=end - begin,
                    )
                )
    return found


def kept_columns(dataset: Dataset, shard: int) -> pa.RecordBatch | None:
    """The columns kept beside the documents of a shard, a row each; None if there are none.

    They have no checksum of their own: `shards verify` compares that of the whole file.

    Raises:
        DatasetError: not a shard.
    """
    plan = dataset.manifest.plans[int(dataset.index.plan[shard])]
    if not dataset.manifest.rules.get(plan, DocumentRules()).columns:
        return None
    path, size = dataset.path(shard), int(dataset.index.bytes[shard])
    try:
        names = _reader(dataset.store, path, size).schema.names
        fields = [i for i, name in enumerate(names) if name not in (TOKENS, LOSS_MASK)]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        batch = _reader(dataset.store, path, size, options).get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
        raise DatasetError(f"{dataset.uri}/{path} is no Arrow IPC file: {error}") from error
    return batch


def _offsets(dataset: Dataset, shard: int, start: int, stop: int) -> tuple[int, Ints]:
    """The first document with tokens of [start, stop) of a shard, its offset and those after it."""
    index, cells = dataset.index, dataset.cells
    step = CELL_BYTES // dataset.dtype.itemsize
    first_cell, end_cell = int(index.first_cell[shard]), int(index.first_cell[shard + 1])
    a, b = first_cell + start // step, first_cell - (-stop // step)
    # One cell more says where the last one's documents end.
    firsts = cells.read("first_document", a, min(b + 1, end_cell)).astype(np.int64)
    hashes = cells.read("documents_xxh3", a, b)
    documents = int(index.documents[shard])
    stops = np.minimum(np.append(firsts[1:] + 2, documents + 1)[: b - a], documents + 1)
    path, base = dataset.path(shard), int(firsts[0])
    if (np.diff(firsts) < 0).any() or int(firsts[-1]) >= documents:
        raise DatasetError(f"{dataset.uri}/{cells.path}: first_document of {path} is out of order")
    at = int(index.documents_at[shard])
    data = dataset.store.read(path, at + 8 * base, at + 8 * int(stops[-1]))
    offsets = np.frombuffer(data, "<i8")
    for low, high, expected in zip(firsts.tolist(), stops.tolist(), hashes.tolist(), strict=False):
        if xxh3(offsets[low - base : high - base]) != expected:
            raise CorruptShard(
                f"{dataset.uri}/{path}: the checksum of its documents {low}-{high - 2} differs. "
                "Restore the shard, or delete it and tokenize again"
            )
    return base, offsets


def _reader(store: Store, key: str, size: int, options: Any = None) -> Any:
    """An Arrow reader that reads only what it needs of an object."""
    return pa.ipc.open_file(pa.PythonFile(_Ranged(store, key, size), mode="r"), options=options)


class _Ranged(io.RawIOBase):
    """An object of a store as a file that is read by ranges."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = self._store.read(self._key, self._at, end)
        self._at = end
        return data
