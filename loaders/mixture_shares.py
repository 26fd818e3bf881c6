"""How many of a mixture's first rows come from each of its sources: exact, at any row, no table.

The sources are the leaves of a binary tree. A node that has given q rows has given round(s q) of
them from its left side, s being the left side's exact share, and the others from its right side.
Both numbers only grow with q, by one row at a time, so the leaves' numbers do too, and they always
sum up to all rows. Each rounding is off by half a row at most, and what a node is off is passed on
to a leaf in proportion to the leaf's part of it: a leaf is off by at most half the sum of its
weight over the weights of the nodes above it and its own. The tree is Huffman's (small weights lie
deep), so these weights grow as fast as Fibonacci's numbers, and the sum is below 3.36: **no source
is ever off by 1.7 rows**, however many there are; with two sources by half a row.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class _Node:
    """A side is a source's number, or a node."""

    left: "int | _Node"
    right: "int | _Node"
    share: Fraction  # the left side's, of the node's rows


@dataclass(frozen=True)
class Shares:
    """`weights`: of each source, at least 0, in any unit; not all of them 0."""

    weights: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(
                f"weights must not be negative, and one must be above 0: "
                f"{', '.join(map(str, self.weights))}"
            )
        total = sum(self.weights)
        object.__setattr__(self, "weights", tuple(weight / total for weight in self.weights))

    @cached_property
    def _tree(self) -> "int | _Node":
        """Huffman's: the two lightest sides become one, again and again."""
        sides: list[tuple[Fraction, int, int | _Node]] = [
            (weight, number, number) for number, weight in enumerate(self.weights)
        ]
        heapq.heapify(sides)
        made = len(sides)
        while len(sides) > 1:
            light, _, left = heapq.heappop(sides)
            heavy, _, right = heapq.heappop(sides)
            both = light + heavy
            node = _Node(left, right, light / both if both else Fraction(0))
            heapq.heappush(sides, (both, made, node))
            made += 1
        return sides[0][2]

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows come from each source."""
        counts = [0] * len(self.weights)
        left = [(self._tree, rows)]
        while left:
            side, given = left.pop()
            if isinstance(side, int):
                counts[side] = given
                continue
            share = side.share
            below = (2 * share.numerator * given + share.denominator) // (2 * share.denominator)
            left += [(side.left, below), (side.right, given - below)]
        return counts


@dataclass(frozen=True)
class Stretch:
    """Rows of a mixture from `start` on, with one set of weights; `before`: rows of each source up
    to there.
    """

    start: int
    before: tuple[int, ...]
    shares: Shares

    def counts(self, row: int) -> list[int]:
        """Rows of each source among the first `row` rows of the mixture; `row` >= `start`."""
        more = self.shares.counts(row - self.start)
        return [before + count for before, count in zip(self.before, more, strict=True)]

    def changed(self, row: int, shares: Shares) -> "Stretch":
        """The one that follows from `row` on."""
        return Stretch(row, tuple(self.counts(row)), shares)


class Course:
    """The weights over the rows of a mixture: a stretch for each set of them.

    A change holds for whatever is given next. So if someone goes back to an earlier row, what was
    set last holds from there on.
    """

    def __init__(self, first: Stretch) -> None:
        self._stretches = [first]

    @property
    def shares(self) -> Shares:
        """The weights that were set last."""
        return self._stretches[-1].shares

    def at(self, row: int) -> Stretch:
        """What holds for the rows from `row` on.

        Raises:
            ValueError: `row` lies before what is known.
        """
        last = self._stretches[-1]
        if row >= last.start:
            return last
        for stretch in reversed(self._stretches):
            if row >= stretch.start:
                return stretch.changed(row, last.shares)
        raise ValueError(
            f"row {row} of the mixture lies before row {self._stretches[0].start}, where the "
            "weights changed, and the state that was loaded doesn't know the earlier ones. For an "
            "earlier epoch make a new loader, or load an earlier state"
        )

    def hold_from(self, row: int) -> Stretch:
        """As `at`; changes at later rows are forgotten."""
        stretch = self.at(row)
        self._stretches = [one for one in self._stretches if one.start < stretch.start]
        self._stretches.append(stretch)
        return stretch

    def change(self, row: int, shares: Shares) -> Stretch:
        """From `row` on, other weights."""
        stretch = self.at(row).changed(row, shares)
        self._stretches = [one for one in self._stretches if one.start < row]
        self._stretches.append(stretch)
        return stretch


def exact(weights: Sequence[object]) -> tuple[Fraction, ...]:
    """Weights as people write them, as exact fractions: 0.7 is 7/10.

    Raises:
        ValueError: one is not a number.
    """
    try:
        return tuple(
            weight if isinstance(weight, Fraction) else Fraction(str(weight)) for weight in weights
        )
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"weights must be numbers: {', '.join(repr(weight) for weight in weights)}"
        ) from None
