"""Runs of samples as reads: from sample numbers to verified rows in memory.

A run lies in one shard, or in several where a shard ends inside it. For each shard it touches there
is one part: one ranged read of the token bytes, rounded outward to checksummed cells; one more of
the loss mask where the dataset has one; and, when the table of checksums is too large to be held,
one for the checksums of each. They are read side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from loaders.form import Form
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
    """Memory for some samples.

    Attributes:
        tokens: [samples, seq_len] in the stream's dtype.
        mask: uint8 [samples, seq_len], 0 where a token's loss doesn't count; None: it all does.
        after: [samples], the token behind each sample, for labels that are one token ahead.
        after_counts: uint8 [samples], 0 where there is none, or its loss doesn't count.
        begins: uint8 [samples, seq_len + 1], 1 where a document begins, the token behind included;
            for masks of documents.
        filled: int32 [samples], tokens in a row that is packed: what lies behind them is padding.
    """

    tokens: Array
    mask: npt.NDArray[np.uint8] | None
    after: Array | None = None
    after_counts: npt.NDArray[np.uint8] | None = None
    begins: npt.NDArray[np.uint8] | None = None
    filled: npt.NDArray[np.int32] | None = None

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(
            self.tokens[part],
            None if self.mask is None else self.mask[part],
            None if self.after is None else self.after[part],
            None if self.after_counts is None else self.after_counts[part],
            None if self.begins is None else self.begins[part],
            None if self.filled is None else self.filled[part],
        )

    def clear(self) -> None:
        """All of it padding."""
        optional = (self.mask, self.after, self.after_counts, self.begins, self.filled)
        for memory in (self.tokens, *optional):
            if memory is not None:
                memory[:] = 0

    @classmethod
    def empty(cls, stream: Stream, samples: int, seq_len: int, form: Form) -> "Rows":
        """Uninitialized memory in the stream's dtype; with a mask if the dataset has one."""
        shape, mask = (samples, seq_len), stream.dataset.manifest.loss_mask
        after = form.labels == "next"
        return cls(
            np.empty(shape, stream.dtype),
            np.empty(shape, np.uint8) if mask else None,
            np.empty(samples, stream.dtype) if after else None,
            np.empty(samples, np.uint8) if after else None,
            np.empty((samples, seq_len + 1), np.uint8) if form.document_mask else None,
            np.empty(samples, np.int32) if form.packed else None,
        )


class Checksums:
    """The cells' checksums of a dataset: held in memory, or read with each block if too many."""

    def __init__(self, cells: CellTable) -> None:
        self._cells = cells
        self._held: dict[str, Hashes] = {}
        self._lock = Lock()
        self.whole = cells.bytes <= WHOLE_TABLE_BYTES

    def read(self, column: str, start: int, stop: int) -> Read:
        """Where rows [start, stop) of a column lie, for tables that are not held."""
        start, stop = self._cells.byte_range(column, start, stop)
        return Read(self._cells.path, start, stop)

    def held(self, column: str, start: int, stop: int) -> Hashes:
        """Rows [start, stop) of a column. The first call reads the table, the others wait."""
        values = self._held.get(column)
        if values is None:
            with self._lock:
                values = self._held.get(column)
                if values is None:
                    values = self._cells.read(column, 0, self._cells.rows)
                    self._held[column] = values
        return values[start:stop]


class PartOfRun:
    """What one shard holds of a run (see `loaders.attempts.Part`).

    Args:
        put: takes the verified tokens, and their mask if `masked`, to their place.
    """

    def __init__(
        self,
        piece: Piece,
        checksums: Checksums,
        masked: bool,
        put: Callable[[Array, Array | None], None],
    ) -> None:
        self._piece = piece
        self._checksums = checksums
        self._put = put
        self._masked = masked
        runs = [(_TOKENS, piece.byte_start, piece.byte_stop)]
        if masked:
            runs.append((_MASK, piece.mask_start, piece.mask_stop))
        self.reads = [Read(piece.path, start, stop) for _, start, stop in runs]
        if not checksums.whole:
            rows = piece.cell_start, piece.cell_stop
            self.reads += [checksums.read(column, *rows) for column, _, _ in runs]

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        """Verifies the bytes and puts tokens and mask in their place. Raises CorruptShard."""
        tokens = self._piece.tokens(data[0], self._hashes(_TOKENS, 0, data))
        mask = None
        if self._masked:
            mask = self._piece.mask(data[1], self._hashes(_MASK, 1, data))
        self._put(tokens, mask)

    def _hashes(self, column: str, number: int, data: Sequence[memoryview | bytes]) -> Hashes:
        if self._checksums.whole:
            return self._checksums.held(column, self._piece.cell_start, self._piece.cell_stop)
        return np.frombuffer(data[len(data) // 2 + number], "<u8")


def tokens_of_run(stream: Stream, seq_len: int, run: Run, rows: Rows) -> tuple[int, int]:
    """The first token of a run, and the end of its last; one more where `rows` need it."""
    stop = (run.first + run.count) * seq_len
    return run.first * seq_len, stop if rows.after is None else min(stop + 1, stream.tokens)


def parts_of_run(
    stream: Stream, checksums: Checksums, seq_len: int, run: Run, rows: Rows
) -> list[PartOfRun]:
    """The parts that fill `rows` (of `run.count` samples) with a run's tokens."""
    start, stop = tokens_of_run(stream, seq_len, run, rows)
    if rows.after_counts is not None:
        rows.after_counts[:] = 0
    parts, filled = [], 0
    for piece in stream.pieces(start, stop):
        put = _Put(rows, filled)
        parts.append(PartOfRun(piece, checksums, rows.mask is not None, put))
        filled += piece.stop - piece.start
    return parts


@dataclass(frozen=True, slots=True)
class _Put:
    """Puts tokens into `rows`, from the `filled`-th token of theirs on."""

    rows: Rows
    filled: int

    def __call__(self, tokens: Array, mask: Array | None) -> None:
        rows, filled = self.rows, self.filled
        end = min(filled + len(tokens), rows.tokens.size)
        rows.tokens.reshape(-1)[filled:end] = tokens[: end - filled]
        if rows.mask is not None and mask is not None:
            rows.mask.reshape(-1)[filled:end] = mask[: end - filled]
        if rows.after is not None and rows.after_counts is not None:
            length = rows.tokens.shape[1]
            first = max(1, -(-filled // length))  # the first row's first token is behind no row
            behind = slice(first * length - filled, None, length)
            some = tokens[behind]
            places = slice(first - 1, first - 1 + len(some))
            rows.after[places] = some
            rows.after_counts[places] = 1 if mask is None else mask[behind]
