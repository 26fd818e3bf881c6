"""Where documents begin in rows: read from the shard's own offsets, beside the tokens.

Which offsets to read is in the table of cells. Where that is too large to be held, its rows are
read first, and the part that reads the offsets follows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.attempts import Part
from loaders.blocks import Checksums, Rows
from loaders.source import Read
from shards.dataset import Dataset, Piece, Stream
from shards.errors import CorruptShard, DatasetError
from shards.offsets import DOCUMENTS_XXH3, FIRST_DOCUMENT, OffsetsRead, first_document_rows

Ints = npt.NDArray[np.int64]
Bytes = memoryview | bytes


def part_with_offsets(
    dataset: Dataset,
    checksums: Checksums,
    pieces: Sequence[Piece],
    then: Callable[[list[OffsetsRead]], Part],
) -> Part:
    """The part that `then` makes of how the offsets around `pieces` are read, or one before it."""
    if not checksums.whole:
        return _CellsFirst(dataset, checksums, pieces, then)
    return then(
        [
            OffsetsRead.of(
                dataset,
                piece,
                checksums.held(FIRST_DOCUMENT, *first_document_rows(dataset, piece)),
                checksums.held(DOCUMENTS_XXH3, piece.cell_start, piece.cell_stop),
            )
            for piece in pieces
        ]
    )


class _CellsFirst:
    """Reads the rows of the table that say where the offsets lie."""

    def __init__(
        self,
        dataset: Dataset,
        checksums: Checksums,
        pieces: Sequence[Piece],
        then: Callable[[list[OffsetsRead]], Part],
    ) -> None:
        self._dataset = dataset
        self._pieces = pieces
        self._then = then
        self.reads: list[Read] = []
        for piece in pieces:
            rows = first_document_rows(dataset, piece)
            self.reads.append(checksums.read(FIRST_DOCUMENT, *rows))
            self.reads.append(checksums.read(DOCUMENTS_XXH3, piece.cell_start, piece.cell_stop))

    def land(self, data: Sequence[Bytes]) -> Part:
        try:
            reads = [
                OffsetsRead.of(
                    self._dataset,
                    piece,
                    np.frombuffer(data[2 * number], "<u8"),
                    # The threads' buffers are used again before the next part lands.
                    np.frombuffer(data[2 * number + 1], "<u8").copy(),
                )
                for number, piece in enumerate(self._pieces)
            ]
        except DatasetError as error:  # rows of the table have no checksum: perhaps only this time
            raise CorruptShard(str(error)) from error
        return self._then(reads)


@dataclass(frozen=True, slots=True)
class _StartsOfRun:
    """Marks where documents begin in `rows`, whose `filled`-th token is the piece's first."""

    offsets: OffsetsRead
    rows: Rows
    filled: int

    @property
    def reads(self) -> list[Read]:
        one = self.offsets
        return [Read(one.piece.path, one.byte_start, one.byte_stop)]

    def land(self, data: Sequence[Bytes]) -> None:
        mark(self.rows, self.offsets.starts(data[0]) + self.filled)


def starts_of_run(
    stream: Stream, checksums: Checksums, start: int, stop: int, rows: Rows
) -> list[Part]:
    """The parts that mark where documents begin in `rows`, which hold tokens [start, stop), and
    perhaps one more behind each of them.
    """
    assert rows.begins is not None
    rows.begins[:] = 0
    parts, filled = [], 0
    for piece in stream.pieces(start, stop):

        def then(offsets: list[OffsetsRead], filled: int = filled) -> Part:
            return _StartsOfRun(offsets[0], rows, filled)

        parts.append(part_with_offsets(stream.dataset, checksums, [piece], then))
        filled += piece.stop - piece.start
    return parts


def mark(rows: Rows, starts: Ints) -> None:
    """Notes that documents begin at these tokens, counted over all rows."""
    assert rows.begins is not None
    row, column = np.divmod(starts, rows.tokens.shape[1])
    inside = row < len(rows.begins)
    rows.begins[row[inside], column[inside]] = 1
    behind = (column == 0) & (row > 0)  # the token behind the row before
    rows.begins[row[behind] - 1, -1] = 1
