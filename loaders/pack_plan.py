"""Where the packs of a stream begin: one pass over the lengths of its documents.

All packs but the last have the same number of rows, so a row has a number as a sample has one, and
the order of samples serves rows too. Two numbers a pack are enough: which pieces it holds, and in
which rows, follows from the lengths of its documents (`packing.pack`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.packing import cut, pack

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackPlan:
    """The packs of a stream for one seq_len.

    Attributes:
        seq_len, rows: tokens in a row; rows in a pack, but in the last.
        last_rows: rows in the last pack.
        token: int64 [packs + 1], each pack's first token in the stream; then the stream's end.
        document: int64 [packs + 1], the document that holds it; then the number of documents.
    """

    seq_len: int
    rows: int
    last_rows: int
    token: Ints
    document: Ints

    @property
    def packs(self) -> int:
        return len(self.token) - 1

    @property
    def all_rows(self) -> int:
        """Rows of all packs."""
        return max(0, self.packs - 1) * self.rows + self.last_rows

    @property
    def padding(self) -> float:
        """Share of all rows' slots that hold no token."""
        slots = self.all_rows * self.seq_len
        return 1 - int(self.token[-1]) / slots if slots else 0.0


def plan_packs(lengths: Iterable[Ints], seq_len: int, rows: int) -> PackPlan:
    """The plan for documents of these lengths, the same however they are divided into arrays.

    Args:
        lengths: int64 [documents] each, as a shard's offsets give them.
        rows: of a pack; seq_len * rows tokens are read at once.
    """
    token, document = array("q"), array("q")
    held, begin, at, first, used = np.zeros(0, np.int64), 0, 0, 0, 0
    for some, last in _with_last(lengths):
        held = np.concatenate([held, some])
        # A pack sees as many tokens as it could hold, or all that there are.
        while len(held) and (last or held.sum() - begin >= seq_len * rows):
            pieces = cut(held, seq_len, begin)
            packed = pack(pieces.length, seq_len, rows)
            token.append(at)
            document.append(first)
            used = packed.rows
            at += int(pieces.length[: len(packed.row)].sum())
            if len(packed.row) == len(pieces):
                passed, begin = len(held), 0
            else:
                passed = int(pieces.document[len(packed.row)])
                whole = int(held[:passed].sum())
                begin = int(pieces.start[len(packed.row)]) - whole
            held, first = held[passed:], first + passed
    ends = np.array(token, np.int64), np.array(document, np.int64)
    return PackPlan(seq_len, rows, used, np.append(ends[0], at), np.append(ends[1], first))


def _with_last(lengths: Iterable[Ints]) -> Iterator[tuple[Ints, bool]]:
    """The arrays, and in the end an empty one that says so."""
    for some in lengths:
        yield np.asarray(some, np.int64), False
    yield np.zeros(0, np.int64), True
