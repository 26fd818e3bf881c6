"""Which documents lie in a stretch of the token stream, and what was kept beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import Dataset, Ints, Piece, Stream
from shards.errors import DatasetError
from shards.format import LOSS_MASK, TOKENS
from shards.manifest import DocumentRules
from shards.offsets import DOCUMENTS_XXH3, FIRST_DOCUMENT, OffsetsRead, first_document_rows
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
    for piece in stream.pieces(start, stop):
        first, offsets = _offsets(stream.dataset, piece)
        low = np.searchsorted(offsets, piece.start, side="right") - 1
        high = np.searchsorted(offsets, piece.stop)
        for document in range(int(low), int(high)):
            begin, end = int(offsets[document]), int(offsets[document + 1])
            left, right = max(piece.start, begin), min(piece.stop, end)
            if left < right:
                found.append(
                    Excerpt(
                        shard=piece.shard,
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


def _offsets(dataset: Dataset, piece: Piece) -> tuple[int, Ints]:
    """The first document with tokens of a piece, its offset and those after it."""
    cells = dataset.cells
    read = OffsetsRead.of(
        dataset,
        piece,
        cells.read(FIRST_DOCUMENT, *first_document_rows(dataset, piece)),
        cells.read(DOCUMENTS_XXH3, piece.cell_start, piece.cell_stop),
    )
    return read.first, read.offsets(dataset.store.read(piece.path, read.byte_start, read.byte_stop))


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
