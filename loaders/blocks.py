"""Runs of samples as reads: from sample numbers to verified rows in memory.

A run lies in one shard, or in several where a shard ends inside it. For each shard it touches there
is one part: one ranged read of the token bytes, rounded outward to checksummed cells, and, when the
table of checksums is too large to be held, one more for its checksums, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from shards.dataset import Piece, Stream

from loaders.schedule import Run
from loaders.source import Read

Array = npt.NDArray[np.generic]

IGNORED = -100  # the label that torch's and HF's cross entropy skip
_WHOLE_TABLE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """Memory for some samples: `tokens` [samples, seq_len], `mask` uint8 of that shape or None."""

    tokens: Array
    mask: Array | None

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(self.tokens[part], None if self.mask is None else self.mask[part])

    @classmethod
    def empty(cls, stream: Stream, samples: int, seq_len: int) -> "Rows":
        shape = (samples, seq_len)
        mask = np.empty(shape, np.uint8) if stream.dataset.manifest.loss_mask else None
        return cls(np.empty(shape, stream.dtype), mask)


class PartOfRun:
    """What one shard holds of a run (see `loaders.fetch.Part`)."""

    def __init__(self, stream: Stream, piece: Piece, tokens: Array, mask: Array | None) -> None:
        self._stream = stream
        self._piece = piece
        self._tokens = tokens
        self._mask = mask
        self.reads = self._reads()

    def _reads(self) -> Sequence[Read]:
        piece, cells = self._piece, self._stream.dataset.cells
        reads = [Read(piece.path, piece.byte_start, piece.byte_stop)]
        return reads

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        piece, cells = self._piece, self._stream.dataset.cells
        checksums = cells.read("tokens_xxh3", piece.cell_start, piece.cell_stop)
        self._tokens[:] = piece.tokens(data[0], checksums)


def parts_of_run(stream: Stream, seq_len: int, run: Run, rows: Rows) -> list[PartOfRun]:
    """The parts that fill `rows` (of `run.count` samples) with a run's tokens."""
    tokens = rows.tokens.reshape(-1)
    mask = None if rows.mask is None else rows.mask.reshape(-1)
    parts, filled = [], 0
    for piece in stream.pieces(run.first * seq_len, (run.first + run.count) * seq_len):
        end = filled + piece.stop - piece.start
        part_mask = None if mask is None else mask[filled:end]
        parts.append(PartOfRun(stream, piece, tokens[filled:end], part_mask))
        filled = end
    return parts
