"""Where the packs of a stream begin: one pass over the lengths of its documents.

All packs but the last have the same number of rows, so a row has a number as a sample has one, and
the order of samples serves rows too. One number a pack is enough: which pieces it holds, and in
which rows, follows from where its documents begin (`layout.lay_out`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.form import Packing
from loaders.layout import lay_out

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackPlan:
    """The packs of a stream for one seq_len.

    Attributes:
        packing: how pieces are put into rows.
        seq_len, rows: tokens in a row, at most; rows in a pack, but in the last.
        last_rows: rows in the last pack.
        token: int64 [packs + 1], each pack's first token in the stream; then the stream's end.
    """

    packing: Packing
    seq_len: int
    rows: int
    last_rows: int
    token: Ints

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


def plan_packs(
    lengths: Iterable[Ints], seq_len: int, rows: int, packing: Packing = "best_fit"
) -> PackPlan:
    """The plan for documents of these lengths, the same however they are divided into arrays.

    Args:
        lengths: int64 [documents] each, as a shard's offsets give them.
        rows: of a pack; at most seq_len * rows tokens are read at once.
    """
    token = array("q")
    # Where documents begin, from `at` on: the first token of the pack that is to be made.
    held, at, end, used = np.zeros(0, np.int64), 0, 0, 0
    for some, last in _with_last(lengths):
        ends = end + np.cumsum(some)
        held = np.concatenate([held, (ends - some)[some > 0]])
        end = int(ends[-1]) if len(some) else end
        # A pack sees as many tokens as it could hold, or all that there are.
        while end - at >= seq_len * rows or (last and end > at):
            stop = min(at + seq_len * rows, end)
            first = int(np.searchsorted(held, at, side="right"))
            behind = int(np.searchsorted(held, stop))
            whole = stop == end or stop in held[behind : behind + 1]
            layout = lay_out(packing, held[first:behind] - at, stop - at, whole, seq_len, rows)
            token.append(at)
            at, used = at + layout.tokens, layout.rows
        held = held[np.searchsorted(held, at) :]
    return PackPlan(packing, seq_len, rows, used, np.append(np.array(token, np.int64), at))


def _with_last(lengths: Iterable[Ints]) -> Iterator[tuple[Ints, bool]]:
    """The arrays, and in the end an empty one that says so."""
    for some in lengths:
        yield np.asarray(some, np.int64), False
    yield np.zeros(0, np.int64), True
