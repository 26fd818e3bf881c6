"""Where the documents of a token range begin: ranged reads of a shard's offsets, verified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset, Piece
from shards.errors import CorruptShard, DatasetError
from shards.format import Checksums, xxh3
from shards.store import Bytes

Ints = npt.NDArray[np.int64]

FIRST_DOCUMENT, DOCUMENTS_XXH3 = "first_document", "documents_xxh3"


def first_document_rows(dataset: Dataset, piece: Piece) -> tuple[int, int]:
    """The rows of the cells table whose `first_document` tell where a piece's offsets lie.

    One more than the piece has cells, where the shard has it: it says where the last one's
    documents end.
    """
    end = int(dataset.index.first_cell[piece.shard + 1])
    return piece.cell_start, min(piece.cell_stop + 1, end)


@dataclass(frozen=True, eq=False)
class OffsetsRead:
    """The offsets of the documents that have tokens in a piece, and of the one behind them.

    Attributes:
        first: number in the shard of the first document.
        byte_start, byte_stop: where they lie in the shard file, int64 each.
    """

    piece: Piece
    first: int
    byte_start: int
    byte_stop: int
    _low: Ints  # of each cell: the offsets that its checksum is of, counted from `first`
    _high: Ints
    _xxh3: Checksums

    @classmethod
    def of(
        cls, dataset: Dataset, piece: Piece, first_document: Checksums, documents_xxh3: Checksums
    ) -> OffsetsRead:
        """From the columns of the cells table: rows `first_document_rows(...)` of
        `first_document`, the piece's rows of `documents_xxh3`.

        Raises:
            DatasetError: documents that the shard hasn't, or in another order.
        """
        first = first_document.astype(np.int64)
        cells = piece.cell_stop - piece.cell_start
        documents = int(dataset.index.documents[piece.shard])
        if (np.diff(first) < 0).any() or first[0] < 0 or first[-1] >= documents:
            raise DatasetError(
                f"{dataset.uri}/{dataset.cells.path}: first_document of {piece.path} is out of "
                "order"
            )
        high = np.minimum(np.append(first[1:] + 2, documents + 1)[:cells], documents + 1)
        base = int(first[0])
        at = int(dataset.index.documents_at[piece.shard])
        start, stop = at + 8 * base, at + 8 * int(high[-1])
        return cls(piece, base, start, stop, first[:cells] - base, high - base, documents_xxh3)

    def offsets(self, data: Bytes) -> Ints:
        """The offsets in tokens of the shard.

        Args:
            data: bytes [byte_start, byte_stop) of the shard.

        Raises:
            CorruptShard: too few bytes, or offsets with another checksum.
        """
        piece = self.piece
        if memoryview(data).nbytes != self.byte_stop - self.byte_start:
            raise CorruptShard(
                f"{piece.uri}/{piece.path} bytes {self.byte_start}-{self.byte_stop}: "
                f"{memoryview(data).nbytes} bytes came. Is the shard cut short?"
            )
        offsets = np.frombuffer(data, "<i8")
        cells = zip(self._low.tolist(), self._high.tolist(), self._xxh3.tolist(), strict=True)
        for low, high, expected in cells:
            if xxh3(offsets[low:high]) != expected:
                raise CorruptShard(
                    f"{piece.uri}/{piece.path}: the checksum of its documents "
                    f"{self.first + low}-{self.first + high - 2} differs. "
                    "Restore the shard, or delete it and tokenize again"
                )
        return offsets

    def starts(self, data: Bytes) -> Ints:
        """Where documents begin in the piece: token numbers counted from its first one, rising,
        each once. (An empty document begins where the next one does.)
        """
        offsets, piece = self.offsets(data), self.piece
        inside = offsets[(offsets >= piece.start) & (offsets < piece.stop)]
        return np.unique(inside) - piece.start
