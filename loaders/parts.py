"""Long samples read in parts: the order of `max_seq_len`, given in rows of a shorter `seq_len`.

What is dealt are samples of `max_seq_len` tokens (`loaders.order`), so their order doesn't depend
on `seq_len`. `lanes` of them at consecutive positions are a **round**. A round is given part by
part: the first `seq_len` tokens of each of its samples, then the next ones of each, and so on. So a
batch mixes as many places as with whole samples, and a lane stays with the rank that owns it.
Without shuffle a round is one sample: rows come as they are stored.

A *position* counts rows of `seq_len` over all ranks, from the epoch's beginning.

When `seq_len` changes inside a round, its samples have been read up to different places. What is
left of that round is then given row by row: the rows of the new `seq_len`, in their usual sequence,
that hold anything unread. A row that is partly read is given whole, as context, and the labels of
what was read before are -100: so each token still counts once. The rows of the next round have
their usual positions; those of the begun one are counted backwards from there.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loaders.order import Ints, Level, Order, Places

# What was given of a round before `seq_len` last changed: (seq_len, rows), oldest first.
History = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Begun:
    """What is left of a round in which `seq_len` changed: rows `first` to `stop`, arrays of int64.

    Attributes:
        position: of the long sample that each row is a part of.
        part: which part of it.
        read: tokens at the row's beginning that were read before.
    """

    first: int
    position: Ints
    part: Ints
    read: Ints

    @property
    def stop(self) -> int:
        return self.first + len(self.position)


@dataclass(frozen=True)
class PartedOrder:
    """`order`, dealt in samples of `max_seq_len` tokens, as rows of `seq_len`: numbers that count
    samples are in rows.

    It answers what an `Order` answers. A row is sample `long * parts + part` of the dataset.
    """

    order: Order
    seq_len: int
    max_seq_len: int
    begun: Begun | None = None

    @property
    def parts(self) -> int:
        return self.max_seq_len // self.seq_len

    @property
    def samples(self) -> int:
        return self.order.samples * self.parts

    @property
    def block(self) -> int:
        return self._stored.block if not self.shuffle else self.order.block * self.parts

    @property
    def lanes(self) -> int:
        return self.order.lanes

    @property
    def shuffle(self) -> bool:
        return self.order.shuffle

    @property
    def width(self) -> int:
        """Long samples in a round; the last may have fewer."""
        return self.order.lanes if self.order.shuffle else 1

    @cached_property
    def _stored(self) -> Order:
        """The rows as they are stored."""
        size = self.order.sample_bytes // self.parts
        return Order(self.samples, size, self.lanes, shuffle=False)

    def stored_run(self, stride: int) -> int:
        return self._stored.stored_run(stride)

    def sample_at(self, epoch: int, rows: Ints) -> Ints:
        """The dataset's sample numbers of these rows of the epoch, in any order: int64."""
        position, part = self._parts(rows)
        return self.order.sample_at(epoch, position) * self.parts + part

    def places(self, epoch: int, rows: Ints, stride: int = 1) -> Places:
        """As `Order.places`, in rows: for rising rows, `stride` apart, before one `level_end`."""
        if self._row_by_row(int(rows[0])):
            first = self.sample_at(epoch, rows)
            one, yes = np.ones_like(first), np.ones(first.shape, bool)
            return Places(first, one, np.zeros_like(first), yes, yes)
        if not self.shuffle:
            return self._stored.places(epoch, rows, stride)
        position, part = self._parts(rows)
        places = self.order.places(epoch, position, stride)
        return Places(
            places.first * self.parts,
            places.count * self.parts,
            places.row * self.parts + part,
            places.opens & (part == 0),
            places.closes & (part == self.parts - 1),
        )

    def level_end(self, row: int) -> int:
        """The row at which what `row` belongs to ends: a level, a begun round or the last one."""
        if not self.shuffle:
            return self.samples
        if self.begun is not None and self.begun.first <= row < self.begun.stop:
            return self.begun.stop
        if self._row_by_row(row):
            return self.samples
        level: Level = self.order.level_at(row // (self.width * self.parts) * self.width)
        whole = self.order.samples // self.width * self.width
        return min(level.start + level.samples, whole) * self.parts

    def _row_by_row(self, row: int) -> bool:
        """Whether rows are runs of their own there: their samples don't lie lane by lane."""
        if not self.shuffle:
            return False
        if self.begun is not None and self.begun.first <= row < self.begun.stop:
            return True
        whole = self.order.samples // self.width * self.width
        return row >= whole * self.parts

    def _parts(self, rows: Ints) -> tuple[Ints, Ints]:
        """The position of the long sample and the part of it, for each row."""
        number, turn = np.divmod(rows, self.width * self.parts)
        first = number * self.width
        part, place = np.divmod(turn, np.minimum(self.width, self.order.samples - first))
        position = first + place
        if self.begun is not None:
            left = (rows >= self.begun.first) & (rows < self.begun.stop)
            index = rows[left] - self.begun.first
            position[left], part[left] = self.begun.position[index], self.begun.part[index]
        return position, part


AnyOrder = Order | PartedOrder


@dataclass(frozen=True)
class Deal:
    """How tokens are dealt: `order` of samples of `max_seq_len` tokens, given in rows of `seq_len`,
    which divides it.
    """

    order: Order
    seq_len: int
    max_seq_len: int

    @property
    def parts(self) -> int:
        return self.max_seq_len // self.seq_len

    def rows(self, at: int = 0, history: History = ()) -> AnyOrder:
        """The order in rows, `history` being that of the round in which row `at` lies.

        Raises:
            ValueError: a history that cannot be one of that round.
        """
        if not history:
            plain = self.parts == 1
            return self.order if plain else PartedOrder(self.order, self.seq_len, self.max_seq_len)
        begun = self._begun(at, history)
        return PartedOrder(self.order, self.seq_len, self.max_seq_len, begun)

    def place_after(self, at: int, history: History, old: int) -> tuple[int, History]:
        """Position and history, where `at` and `history` are those of rows of `old` tokens.

        The position is that of the first row which holds something unread.

        Raises:
            ValueError: not a position of the epoch, or a history that cannot be one of its round.
        """
        before = Deal(self.order, old, self.max_seq_len)
        all_rows = self.order.samples * before.parts
        if at > all_rows:
            raise ValueError(f"the state's position {at} lies behind the {all_rows} samples")
        if at == all_rows:
            return self.order.samples * self.parts, ()
        begun = before._begun(at, history).first if history else at // before._round * before._round
        given = at - begun
        if given < 0:
            raise ValueError(
                f"not a loader's state: position {at} lies before row {begun}, where "
                f"{[list(pair) for pair in history]} end"
            )
        if old == self.seq_len:
            return at, history
        if given:
            history = (*history, (old, given))
        first = at // before._round * self._round
        return (self._begun(first, history).first if history else first), history

    def begun_until(self, at: int, history: History) -> int:
        """The row at which the round ends that `history` is of; 0 if there is none."""
        return self._begun(at, history).stop if history else 0

    @property
    def _width(self) -> int:
        return self.order.lanes if self.order.shuffle else 1

    @property
    def _round(self) -> int:
        return self._width * self.parts

    def _begun(self, at: int, history: History) -> Begun:
        first = at // self._round * self._width
        size = min(self._width, self.order.samples - first)
        part, place, read = _unread(
            _read(size, history, self.max_seq_len), self.seq_len, self.max_seq_len
        )
        if not len(part):
            raise ValueError(
                f"not a loader's state: {[list(pair) for pair in history]} leave nothing of the "
                f"round of position {at}"
            )
        return Begun((first + size) * self.parts - len(part), first + place, part, read)


def _read(size: int, history: History, max_seq_len: int) -> Ints:
    """How many tokens of each of a round's `size` samples were read: int64 [size]."""
    read = np.zeros(size, np.int64)
    for seq_len, rows in history:
        part, place, _ = _unread(read, seq_len, max_seq_len)
        if rows > len(part):
            raise ValueError(
                f"not a loader's state: {rows} rows of {seq_len} tokens, where a round of {size} "
                f"samples has {len(part)} left"
            )
        np.maximum.at(read, place[:rows], (part[:rows] + 1) * seq_len)
    return read


def _unread(read: Ints, seq_len: int, max_seq_len: int) -> tuple[Ints, Ints, Ints]:
    """The rows of `seq_len` that hold anything unread: part, place in the round, tokens read."""
    ends = np.arange(seq_len, max_seq_len + 1, seq_len)
    part, place = np.nonzero(read < ends[:, None])
    return part, place, np.maximum(read[place] - part * seq_len, 0)
