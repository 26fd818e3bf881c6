"""Documents into rows of `seq_len` tokens, none of them cut that fits in one.

The documents of a stream are cut into *pieces*: a document of at most seq_len tokens is one; of a
longer one each full seq_len is one, and what is left. A **pack** is `rows` rows that hold a run of
consecutive pieces, so its tokens are one ranged read. Which pieces it holds and in which rows
follows from the lengths of documents alone: best fit, the longest first (Johnson 1974), which needs
at most 11/9 of the fewest rows there could be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Pieces of consecutive documents, in order; arrays of one length, int64.

    Attributes:
        document: number of the document, counted from the first that was given.
        start: its first token, counted from the first token that was given.
        length: 1 to seq_len tokens.
    """

    document: Ints
    start: Ints
    length: Ints

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class Pack:
    """Where pieces lie in the rows of a pack.

    Attributes:
        row: int64 [pieces]: of each of the first `len(row)` pieces that were given.
        column: int64 [pieces]: where in the row it begins. In a row pieces are in stream order.
        rows: that are used, at most as many as asked for.
    """

    row: Ints
    column: Ints
    rows: int


def cut(lengths: Ints, seq_len: int, begin: int = 0) -> Pieces:
    """The pieces of documents with these lengths.

    Args:
        lengths: int64 [documents], tokens; an empty document has no piece.
        begin: tokens of the first document that are left out: full pieces of it that were packed
            before, so a multiple of seq_len.

    Raises:
        ValueError: `begin` is no such multiple, or not inside the first document.
    """
    if begin and (begin % seq_len or not len(lengths) or begin >= lengths[0]):
        raise ValueError(f"begin={begin} is not at a piece of the first document")
    left = lengths.astype(np.int64)
    left[:1] -= begin
    count = -(-left // seq_len)
    document = np.repeat(np.arange(len(left)), count)
    number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    first = np.cumsum(left) - left
    start = first[document] + number * seq_len
    length = np.minimum(seq_len, left[document] - number * seq_len)
    return Pieces(document, start + begin, length)


def pack(lengths: Ints, seq_len: int, rows: int) -> Pack:
    """Packs as many of the first pieces as fit into `rows` rows.

    Where there are `rows * seq_len` tokens or more, every row is used.

    Args:
        lengths: int64 [pieces], 1 to seq_len tokens each.
    """
    taken = int(np.searchsorted(np.cumsum(lengths), rows * seq_len, side="right"))
    while True:
        open_rows = _OpenRows(seq_len)
        order = np.argsort(-lengths[:taken], kind="stable")
        row = np.empty(taken, np.int64)
        row[order] = [open_rows.place(length) for length in lengths[order].tolist()]
        if open_rows.used <= rows:
            break
        # The last pieces, with about as many tokens as did not fit, are for the next pack.
        over = int(lengths[:taken][row >= rows].sum())
        behind = np.cumsum(lengths[:taken][::-1])
        taken = max(rows, taken - 1 - int(np.searchsorted(behind, over)))
    more: list[int] = []
    for length in lengths[taken:].tolist():
        if open_rows.used == rows and not open_rows.has_room(length):
            break
        more.append(open_rows.place(length))
    row = np.append(row, np.array(more, np.int64))
    return Pack(row, _columns(row, lengths[: len(row)]), open_rows.used)


class _OpenRows:
    """Rows by the room that is left in them."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len = seq_len
        self._with_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
        # Bit r is set while a row has room for just r tokens: the fullest row that has room for a
        # piece is the lowest set bit from its length on.
        self._rooms = 0
        self.used = 0

    def has_room(self, length: int) -> bool:
        return bool(self._rooms >> length)

    def place(self, length: int) -> int:
        """Puts a piece into the fullest row that has room, else into a new one; its number."""
        fitting = self._rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = self._with_room[room].pop()
            if not self._with_room[room]:
                self._rooms ^= 1 << room
        else:
            room, number = self._seq_len, self.used
            self.used += 1
        room -= length
        if room:
            self._with_room[room].append(number)
            self._rooms |= 1 << room
        return number


def _columns(row: Ints, lengths: Ints) -> Ints:
    """Where each piece begins in its row: behind those of the same row that come before it."""
    order = np.argsort(row, kind="stable")
    ends = np.cumsum(lengths[order])
    starts = ends - lengths[order]
    first = np.flatnonzero(np.diff(row[order], prepend=-1))
    column = np.empty(len(row), np.int64)
    column[order] = starts - np.repeat(starts[first], np.diff(first, append=len(row)))
    return column
