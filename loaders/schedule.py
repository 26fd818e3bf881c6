"""The order cut into steps, and into the runs of samples that must be read for them.

A *run* is a stretch of consecutive samples read together. A *chunk* is several whole batches
assembled in one go. For each chunk the schedule says where its rows lie (run and row in it), which
runs are used for the first time (to be read, in order of first use) and which for the last time (to
be forgotten). All of it is arithmetic on the order, so starting in the middle of an epoch costs
what starting at its beginning does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loaders.parts import AnyOrder, PartedOrder

Ints = npt.NDArray[np.int64]

# Positions are resolved in windows of about this many rows: numpy's fixed cost per call is spread
# over them.
_WINDOW_ROWS = 8192
# The first chunks hold 1, 2, 4, ... batches, so that the first batch waits for its own bytes only.
_GROWTH = 2


@dataclass(frozen=True)
class Span:
    """What a rank iterates over: the rest of an epoch, from a position to its end."""

    order: AnyOrder
    epoch: int
    start: int  # global position in rows, 0 to samples
    batch_size: int
    drop_last: bool
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    @cached_property
    def left(self) -> int:
        return self.order.samples - self.start

    @cached_property
    def steps(self) -> int:
        """The same on every rank."""
        return (
            self.left // self.global_batch if self.drop_last else -(-self.left // self.global_batch)
        )

    @cached_property
    def rows(self) -> int:
        """Samples of this rank; at most one fewer than another rank's."""
        stop = min(self.left, self.steps * self.global_batch)
        return max(0, -(-(self.start + stop - self.first_position) // self.world_size))

    @cached_property
    def padded_rows(self) -> int:
        """Rows of this rank, padding included: the same on every rank."""
        return -(-min(self.left, self.steps * self.global_batch) // self.world_size)

    @cached_property
    def first_position(self) -> int:
        """This rank's first position: position % world_size == rank."""
        return self.start + (self.rank - self.start) % self.world_size

    def positions(self, row: int, count: int) -> Ints:
        first = self.first_position + row * self.world_size
        return np.arange(first, first + count * self.world_size, self.world_size)

    @cached_property
    def read_before(self) -> Ints:
        """For this rank's first rows, how many of their tokens were read before `seq_len` changed.

        Their labels don't count a second time. Empty, but for a state of another `seq_len`.
        """
        begun = self.order.begun if isinstance(self.order, PartedOrder) else None
        if begun is None or not begun.first <= self.start < begun.stop:
            return np.zeros(0, np.int64)
        left = max(0, -(-(begun.stop - self.first_position) // self.world_size))
        return begun.read[self.positions(0, min(left, self.rows)) - begun.first]

    def position_after(self, step: int) -> int:
        """Where the epoch stands when `step` steps have been delivered."""
        return min(self.start + step * self.global_batch, self.order.samples)

    def samples(self) -> Iterator[int]:
        """This rank's sample numbers in order; -1 is a padding row."""
        for row in range(0, self.rows, _WINDOW_ROWS):
            count = min(_WINDOW_ROWS, self.rows - row)
            yield from self.order.sample_at(self.epoch, self.positions(row, count)).tolist()
        yield from [-1] * (self.padded_rows - self.rows)


@dataclass(frozen=True)
class Run:
    """Samples `first` to `first + count`, read together. `number` names it within an iteration."""

    number: int
    first: int
    count: int


@dataclass(frozen=True)
class Chunk:
    """`steps` whole batches, assembled together. `run` and `row` have one element for each of this
    rank's samples.
    """

    step: int
    steps: int
    run: Ints
    row: Ints
    opened: tuple[Run, ...]  # used here for the first time, in order of need
    closed: tuple[int, ...]  # numbers of the runs used here for the last time
    padding: int  # rows that no sample is left for, at the end of the last step


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a rank; arrays of one element a row."""

    run: Ints
    row: Ints
    first: Ints
    count: Ints
    opens: npt.NDArray[np.bool_]
    closes: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: list["Rows"]) -> "Rows":
        if not parts:  # fewer samples than ranks: this one has padding only
            no_number, no_flag = np.zeros(0, np.int64), np.zeros(0, bool)
            return cls(no_number, no_number, no_number, no_number, no_flag, no_flag)
        return cls(*(np.concatenate([getattr(p, field) for p in parts]) for field in cls.__slots__))


class Plan(Protocol):
    """How rows are read: `StreamingPlan` or `ResidentPlan`. Asked for consecutive rows, once."""

    span: Span

    def rows(self, row: int, count: int) -> Rows: ...

    @property
    def complete(self) -> bool:
        """Every run has been opened: later chunks open none."""
        ...


class StreamingPlan:
    """Runs are the order's blocks. Each is read once, kept from its first row to its last, then
    forgotten.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        # The run that each of this rank's lanes opened last; -1: none yet.
        self._open = np.full(self.open_runs(span.order, span.world_size), -1)
        self._runs = 0

    @property
    def complete(self) -> bool:
        return False

    @staticmethod
    def open_runs(order: AnyOrder, world_size: int) -> int:
        """Runs that this rank is in the middle of, at most: one for each of its lanes."""
        return order.lanes // world_size if order.shuffle else 1

    @staticmethod
    def runs_for_a_batch(order: AnyOrder, world_size: int, batch_size: int) -> int:
        """Runs that a batch opens, at most."""
        if order.shuffle:
            return batch_size  # the last samples of an epoch are runs of their own
        return 1 + min(batch_size, batch_size * world_size // order.stored_run(world_size))

    def rows(self, row: int, count: int) -> Rows:
        parts = []
        while count > 0:
            part = self._rows_of_level(row, count)
            parts.append(part)
            row, count = row + part.run.size, count - part.run.size
        if len(parts) == 1:
            return parts[0]
        return Rows.joined(parts)

    def _rows_of_level(self, row: int, count: int) -> Rows:
        span = self.span
        start = span.first_position + row * span.world_size
        until_end = -(-(span.order.level_end(start) - start) // span.world_size)
        positions = span.positions(row, min(count, until_end))
        places = span.order.places(span.epoch, positions, span.world_size)
        opens = places.opens.copy()
        # Rows turn through the lanes in order, so the row's number says its lane: see Order's rule
        # 2.
        lane = start // span.world_size % self._open.size
        self._open_on_arrival(opens, lane)
        new = np.cumsum(opens) - 1 + self._runs
        self._runs += int(opens.sum())
        numbers = self._filled_by_lane(np.where(opens, new, -1), lane)
        if positions.size == until_end:
            self._open[:] = -1  # nothing is open where a level ends
        return Rows(numbers, places.row, places.first, places.count, opens, places.closes)

    def _open_on_arrival(self, opens: npt.NDArray[np.bool_], lane: int) -> None:
        """Started in the middle of an epoch, a lane's first row opens its run, wherever in it the
        row lies.
        """
        head = min(opens.size, self._open.size)
        lanes = (lane + np.arange(head)) % self._open.size
        opens[:head] |= self._open[lanes] < 0

    def _filled_by_lane(self, numbers: Ints, lane: int) -> Ints:
        """Rows that open nothing (-1) are in the run that their lane opened last."""
        lanes = self._open.size
        turns = -(-(lane + numbers.size) // lanes)
        table = np.full((turns, lanes), -1)
        table.reshape(-1)[lane : lane + numbers.size] = numbers
        table[0] = np.maximum(table[0], self._open)
        # Run numbers only grow, so the last one so far is the largest.
        np.maximum.accumulate(table, axis=0, out=table)
        self._open = table[-1].copy()
        return table.reshape(-1)[lane : lane + numbers.size]


class ResidentPlan:
    """Everything fits into memory: runs are the stream cut from its beginning, each read once and
    kept for good.
    """

    def __init__(self, span: Span, run_samples: int, held: npt.NDArray[np.bool_]) -> None:
        """`held`: which runs are in memory already. It is copied."""
        self.span = span
        self._size = run_samples
        self._asked = held.copy()

    def rows(self, row: int, count: int) -> Rows:
        span = self.span
        sample = span.order.sample_at(span.epoch, span.positions(row, count))
        run = sample // self._size
        first = run * self._size
        opens = np.zeros(run.shape, bool)
        if not self.complete:
            _, first_rows = np.unique(run, return_index=True)
            opens[first_rows] = ~self._asked[run[first_rows]]
            self._asked[run] = True
        size = np.minimum(self._size, span.order.samples - first)
        return Rows(run, sample - first, first, size, opens, np.zeros(run.shape, bool))

    @property
    def complete(self) -> bool:
        return bool(self._asked.all())


def chunks(plan: Plan, most_rows: int, most_opened: int) -> Iterator[Chunk]:
    """The span's steps in chunks of at most `most_rows` rows and `most_opened` new runs, but at
    least one batch.
    """
    span, size = plan.span, plan.span.batch_size
    most_steps, steps = max(1, most_rows // size), 1
    window = max(1, _WINDOW_ROWS // size)
    for base in range(0, span.steps, window):
        end = min(base + window, span.steps)
        rows = plan.rows(base * size, min(end * size, span.rows) - base * size)
        opened = np.concatenate([[0], np.cumsum(rows.opens)])
        step = base
        while step < end:
            limit = min(step + steps, end)
            while (
                limit > step + 1 and _between(opened, step - base, limit - base, size) > most_opened
            ):
                limit = step + max(1, (limit - step) // 2)
            yield _chunk(span, rows, base, step, limit)
            step, steps = limit, min(steps * _GROWTH, most_steps)


def _between(total: Ints, start: int, stop: int, size: int) -> int:
    last = total.size - 1
    return int(total[min(stop * size, last)] - total[min(start * size, last)])


def _chunk(span: Span, rows: Rows, base: int, step: int, end: int) -> Chunk:
    part = slice((step - base) * span.batch_size, (end - base) * span.batch_size)
    run, opens = rows.run[part], np.flatnonzero(rows.opens[part])
    opened = zip(run[opens], rows.first[part][opens], rows.count[part][opens], strict=True)
    return Chunk(
        step=step,
        steps=end - step,
        run=run,
        row=rows.row[part],
        opened=tuple(Run(int(number), int(first), int(count)) for number, first, count in opened),
        closed=tuple(run[rows.closes[part]].tolist()),
        padding=span.padded_rows - span.rows if end == span.steps else 0,
    )
