"""Which tokens lie where in the rows of a pack: a function of where its documents begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.form import Packing
from loaders.packing import cut, pack

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The pieces of a pack, in stream order; arrays of one length, int64.

    Attributes:
        start: of a piece, counted from the pack's first token.
        length: 1 to seq_len tokens.
        row, column: where it lies.
        rows: that are used.
    """

    start: Ints
    length: Ints
    row: Ints
    column: Ints
    rows: int

    @property
    def tokens(self) -> int:
        """Of all pieces together: the next pack begins behind them."""
        return int(self.start[-1] + self.length[-1]) if len(self.start) else 0


def lay_out(
    packing: Packing, starts: Ints, stop: int, whole: bool, seq_len: int, rows: int
) -> Layout:
    """The pack that begins with token 0, of at most `rows` rows.

    Args:
        packing: `"best_fit"`, or `"none"`: a piece a row.
        starts: where documents begin, rising, in (0, stop). A document that goes on from the pack
            before does so at one of its pieces.
        stop: what may be looked at: seq_len * rows tokens, or fewer if a pack is known to end there
            or the stream does.
        whole: a document, or the stream, ends at `stop`.
    """
    lengths = np.diff(starts, prepend=0, append=stop)
    if not whole:
        lengths[-1] -= lengths[-1] % seq_len  # no piece that the document's end would make longer
    pieces = cut(lengths, seq_len)
    if packing == "none":
        some = min(rows, len(pieces))
        row, column, used = np.arange(some), np.zeros(some, np.int64), some
    else:
        packed = pack(pieces.length, seq_len, rows)
        row, column, used = packed.row, packed.column, packed.rows
    return Layout(pieces.start[: len(row)], pieces.length[: len(row)], row, column, used)
