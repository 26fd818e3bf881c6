"""Which rank gives which rows of a mixture: each its own of every source, and a few are moved.

The rows of a source are numbered without end: row n is row n % samples of its epoch n // samples,
in the source's own order. A global batch takes the next few rows of each source, so it is the same
whatever the number of ranks.

In an epoch of a source, row p belongs to rank (p + turn) % R: whole blocks so stay with one rank
(`loaders.order`). Each source has a turn of its own, or those of equal weights would all favour the
same ranks. The ranks' own rows of a batch are mostly not equally many, by up to a row for each
source. So ranks with too many *give* their last ones, of the smallest sources first, and ranks
with too few *take* those, in the order of ranks. A row that is taken is read by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Take:
    """What a rank does with a source in a step: it uses the next `own` of its own rows, passes over
    `given` more, and reads the rows `taken` (their numbers) of others.
    """

    own: int
    given: int
    taken: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.own + len(self.taken)


@dataclass(frozen=True)
class Table:
    """The sources as the ranks share them.

    Args:
        samples: of each source.
        giving: the numbers of the sources, those first whose rows are moved first.
        turns: of each source, below `world_size`. Nothing but who reads what depends on them.
    """

    samples: tuple[int, ...]
    giving: tuple[int, ...]
    turns: tuple[int, ...]
    rank: int = 0
    world_size: int = 1

    def rank_in(self, source: int, rank: int | None = None) -> int:
        """Which rows of a source's epochs a rank (None: this one) owns: those p with p % R equal to
        this.
        """
        rank = self.rank if rank is None else rank
        return (rank - self.turns[source]) % self.world_size

    def takes(self, first: Sequence[int], stop: Sequence[int]) -> list[Take]:
        """What this rank does in the step that takes rows `first[i]` to `stop[i]` of source i.

        All ranks together use each of these rows once. The first of them have a row more than the
        others where it can't be divided evenly.
        """
        if self.world_size == 1:
            return [Take(b - a, 0, ()) for a, b in zip(first, stop, strict=True)]
        own = np.stack(
            [
                self._own_of_all(source, a, b)
                for source, (a, b) in enumerate(zip(first, stop, strict=True))
            ]
        )
        wanted, more = divmod(sum(stop) - sum(first), self.world_size)
        over = own.sum(axis=0) - wanted
        over[:more] -= 1
        mine = int(over[self.rank])
        given = [0] * len(self.samples)
        taken: list[list[int]] = [[] for _ in self.samples]
        if mine > 0:
            given = self._given(own[:, self.rank].tolist(), mine)
        elif mine < 0:
            for source, giver, place in self._taken(own, over):
                rows = self.own_rows(source, first[source], place + 1, giver)
                taken[source].append(int(rows[-1]))
        return [
            Take(int(own[source, self.rank]) - given[source], given[source], tuple(taken[source]))
            for source in range(len(self.samples))
        ]

    def own_rows(self, source: int, first: int, count: int, rank: int | None = None) -> Ints:
        """The numbers of a rank's (None: this one's) next `count` rows of a source, from row
        `first` on.
        """
        found: list[Ints] = []
        samples, mine = self.samples[source], self.rank_in(source, rank)
        while count:
            position = first % samples
            start = position + (mine - position) % self.world_size
            end = min(samples, start + count * self.world_size)
            rows = np.arange(start, end, self.world_size)
            found.append(first - position + rows)
            first, count = first - position + samples, count - len(rows)
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def own_between(self, source: int, first: int, stop: int) -> int:
        """How many of a source's rows `first` to `stop` are this rank's."""
        if self.world_size == 1 or first == stop:
            return stop - first
        return int(self._own_of_all(source, first, stop)[self.rank])

    def own_left(self, source: int, position: int) -> int:
        """This rank's rows of an epoch of a source, from a position of it on."""
        start = position + (self.rank_in(source) - position) % self.world_size
        return max(0, -(-(self.samples[source] - start) // self.world_size))

    def _own_of_all(self, source: int, first: int, stop: int) -> Ints:
        """How many of rows `first` to `stop` of a source each rank owns: int64 [world_size]."""
        samples, world_size = self.samples[source], self.world_size
        own = np.zeros(world_size, np.int64)
        while first < stop:
            position = first % samples
            end = min(samples, position + stop - first)
            each, more = divmod(end - position, world_size)
            own += each
            start = (position + self.turns[source]) % world_size
            own[start : start + more] += 1
            own[: max(0, start + more - world_size)] += 1
            first += end - position
        return own

    def _given(self, own: Sequence[int], count: int) -> list[int]:
        given = [0] * len(self.samples)
        for source in self.giving:
            given[source] = min(own[source], count)
            count -= given[source]
        return given

    def _taken(self, own: Ints, over: Ints) -> Iterator[tuple[int, int, int]]:
        """Source, giving rank and place among its own rows, for each row that this rank takes."""
        given = np.maximum(over, 0).cumsum()
        before = int(np.maximum(-over[: self.rank], 0).sum())
        for number in range(before, before - int(over[self.rank])):
            giver = int(np.searchsorted(given, number, side="right"))
            turn = number - int(given[giver]) + int(over[giver])
            for source in self.giving:
                count = int(own[source, giver])
                if turn < count:
                    yield source, giver, count - 1 - turn
                    break
                turn -= count


def staggered(weights: Sequence[Fraction], batch_size: int, world_size: int) -> tuple[int, ...]:
    """Turns with which, at the beginning, a source's rows of a batch start at the rank where those
    of the source before it ended.
    """
    before = [sum(weights[:number]) * batch_size * world_size for number in range(len(weights))]
    return tuple(int(rows) % world_size for rows in before)


@lru_cache(maxsize=4096)
def places(counts: tuple[int, ...]) -> tuple[Ints, ...]:
    """Where in a batch the rows of each source go, so that each source is spread evenly over it."""
    keys = [(2 * np.arange(count) + 1) / (2 * count) for count in counts if count]
    order = np.argsort(np.concatenate(keys), kind="stable") if keys else np.zeros(0, np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ends = np.cumsum(counts)
    return tuple(place[end - count : end] for end, count in zip(ends, counts, strict=True))
