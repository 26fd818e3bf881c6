"""Runs of samples as reads: from sample numbers to verified rows in memory.

A run lies in one shard, or in several where a shard ends inside it. For each shard it touches there
is one part: one ranged read of the token bytes, rounded outward to checksummed cells; one more of
the loss mask where the dataset has one; and, when the table of checksums is too large to be held,
one for the checksums of each. They are read side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from loaders.schedule import Run
from loaders.source import Read
from shards.dataset import Piece, Stream
from shards.tables import WHOLE_TABLE_BYTES, CellTable

Array = npt.NDArray[np.generic]
Hashes = npt.NDArray[np.uint64]

IGNORED = -100  # the label that torch's and HF's cross entropy skip
_TOKENS, _MASK = "tokens_xxh3", "loss_mask_xxh3"


@dataclass(frozen=True, slots=True)
class Rows:
    """Memory for some samples: `tokens` [samples, seq_len], `mask` uint8 of that shape or None."""

    tokens: Array
    mask: npt.NDArray[np.uint8] | None

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(self.tokens[part], None if self.mask is None else self.mask[part])

    @classmethod
    def empty(cls, stream: Stream, samples: int, seq_len: int) -> "Rows":
        """Uninitialized memory in the stream's dtype; with a mask if the dataset has one."""
        shape = (samples, seq_len)
        mask = np.empty(shape, np.uint8) if stream.dataset.manifest.loss_mask else None
        return cls(np.empty(shape, stream.dtype), mask)


class Checksums:
    """The cells' checksums of a dataset: held in memory, or read with each block if too many."""

    def __init__(self, cells: CellTable) -> None:
        self._cells = cells
        self._held: dict[str, Hashes] = {}
        self._lock = Lock()
        self.whole = cells.bytes <= WHOLE_TABLE_BYTES

    def read(self, column: str, piece: Piece) -> Read:
        """Where the checksums of a piece lie, for tables that are not held."""
        start, stop = self._cells.byte_range(column, piece.cell_start, piece.cell_stop)
        return Read(self._cells.path, start, stop)

    def held(self, column: str, piece: Piece) -> Hashes:
        """The checksums of a piece. The first call reads the table; the others wait for it."""
        values = self._held.get(column)
        if values is None:
            with self._lock:
                values = self._held.get(column)
                if values is None:
                    values = self._cells.read(column, 0, self._cells.rows)
                    self._held[column] = values
        return values[piece.cell_start : piece.cell_stop]


class PartOfRun:
    """What one shard holds of a run (see `loaders.fetch.Part`)."""

    def __init__(
        self, piece: Piece, checksums: Checksums, tokens: Array, mask: Array | None
    ) -> None:
        self._piece = piece
        self._checksums = checksums
        self._tokens = tokens
        self._mask = mask
        runs = [(_TOKENS, piece.byte_start, piece.byte_stop)]
        if mask is not None:
            runs.append((_MASK, piece.mask_start, piece.mask_stop))
        self.reads = [Read(piece.path, start, stop) for _, start, stop in runs]
        if not checksums.whole:
            self.reads += [checksums.read(column, piece) for column, _, _ in runs]

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        """Verifies the bytes and puts tokens and mask in their place. Raises CorruptShard."""
        self._tokens[:] = self._piece.tokens(data[0], self._hashes(_TOKENS, 0, data))
        if self._mask is not None:
            self._mask[:] = self._piece.mask(data[1], self._hashes(_MASK, 1, data))

    def _hashes(self, column: str, number: int, data: Sequence[memoryview | bytes]) -> Hashes:
        if self._checksums.whole:
            return self._checksums.held(column, self._piece)
        return np.frombuffer(data[len(data) // 2 + number], "<u8")


def parts_of_run(
    stream: Stream, checksums: Checksums, seq_len: int, run: Run, rows: Rows
) -> list[PartOfRun]:
    """The parts that fill `rows` (of `run.count` samples) with a run's tokens."""
    tokens = rows.tokens.reshape(-1)
    mask = None if rows.mask is None else rows.mask.reshape(-1)
    parts, filled = [], 0
    for piece in stream.pieces(run.first * seq_len, (run.first + run.count) * seq_len):
        end = filled + piece.stop - piece.start
        part_mask = None if mask is None else mask[filled:end]
        parts.append(PartOfRun(piece, checksums, tokens[filled:end], part_mask))
        filled = end
    return parts
