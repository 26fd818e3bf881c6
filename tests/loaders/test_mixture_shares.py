"""The arithmetic of a mixture: exact shares at every row, and who gives which rows."""

from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.mixture_deal import Table, Take, places, staggered
from loaders.mixture_shares import Course, Shares, Stretch, exact

weight = st.one_of(
    st.fractions(0, 1),
    st.integers(0, 10**18).map(Fraction),
    st.integers(0, 60).map(lambda power: Fraction(1, 1 << power)),
)
several = st.lists(weight, min_size=1, max_size=12).filter(any)
all_shares = several.map(lambda weights: Shares(tuple(weights)))


@settings(max_examples=40)
@given(shares=all_shares, row=st.integers(0, 10**15), rows=st.integers(0, 100))
def test_no_source_is_ever_off_by_more_than_1_7_rows(shares: Shares, row: int, rows: int) -> None:
    for first in (0, row):
        for here in range(first, first + rows):
            for count, part in zip(shares.counts(here), shares.weights, strict=True):
                assert abs(count - part * here) < Fraction(17, 10)


@settings(max_examples=40)
@given(a=weight, b=weight, rows=st.integers(0, 10**12))
def test_with_two_sources_it_is_half_a_row(a: Fraction, b: Fraction, rows: int) -> None:
    if a + b:
        shares = Shares((a, b))
        assert abs(shares.counts(rows)[0] - shares.weights[0] * rows) <= Fraction(1, 2)


@settings(max_examples=40)
@given(shares=all_shares, first=st.integers(0, 10**15), rows=st.integers(1, 100))
def test_each_row_is_of_exactly_one_source(shares: Shares, first: int, rows: int) -> None:
    counts = [shares.counts(row) for row in range(first, first + rows + 1)]
    for row, count in enumerate(counts, first):
        assert sum(count) == row
    for before, after in pairwise(counts):
        assert sorted(b - a for a, b in zip(before, after, strict=True))[-2:] in ([0, 1], [1])


@settings(max_examples=40)
@given(shares=all_shares, first=st.integers(0, 10**15), rows=st.integers(0, 10**6))
def test_a_source_of_weight_0_is_left_out(shares: Shares, first: int, rows: int) -> None:
    for count, part in zip(shares.counts(first + rows), shares.weights, strict=True):
        assert part or not count


@settings(max_examples=40)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 1000),
            st.lists(weight, min_size=4, max_size=4).filter(any),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_after_a_change_of_weights_shares_are_exact_from_there_on(
    changes: list[tuple[int, list[Fraction]]],
) -> None:
    stretch = Stretch(0, (0, 0, 0, 0), Shares((Fraction(1),) * 4))
    course = Course(stretch)
    for rows, weights in changes:
        start = stretch.start + rows
        before = stretch.counts(start)
        stretch = course.change(start, Shares(tuple(weights)))
        assert stretch.counts(start) == before
        assert course.at(start + 77) == stretch
        for row in (start + 1, start + 50):
            more = [b - a for a, b in zip(before, stretch.counts(row), strict=True)]
            for count, part in zip(more, stretch.shares.weights, strict=True):
                assert abs(count - part * (row - start)) < Fraction(17, 10)


def test_weights_set_last_hold_wherever_one_goes_back_to() -> None:
    half, third = (Shares((Fraction(1), Fraction(n))) for n in (1, 2))
    course = Course(Stretch(0, (0, 0), half))
    course.change(100, third)
    assert course.at(60) == Stretch(60, (30, 30), third)
    assert course.at(150).start == 100  # looking changes nothing
    assert course.hold_from(60).counts(90) == [40, 50]
    assert course.at(150).start == 60
    restored = Course(Stretch(60, (30, 30), third))
    with pytest.raises(ValueError, match="row 59 of the mixture lies before row 60"):
        restored.at(59)


def test_weights_are_taken_as_they_are_written() -> None:
    assert exact([0.7, "0.1", 1, Fraction(1, 3), np.float64(0.2)]) == (
        Fraction(7, 10), Fraction(1, 10), Fraction(1), Fraction(1, 3), Fraction(1, 5),
    )  # fmt: skip
    for wrong in ("many", float("nan"), float("inf"), None, True):
        with pytest.raises(ValueError, match="weights must be numbers"):
            exact([0.5, wrong])
    for weights in ([0, 0], [1, -1]):
        with pytest.raises(ValueError, match="must not be negative, and one must be above 0"):
            Shares(exact(weights))


@st.composite
def steps(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int], list[int], int]:
    """Samples of each source, and what a step of some ranks takes: from, to, ranks."""
    sources = draw(st.integers(1, 5))
    world = draw(st.integers(1, 9))
    samples = tuple(draw(st.integers(1, 60)) for _ in range(sources))
    first = [draw(st.integers(0, 500)) for _ in range(sources)]
    counts = [draw(st.integers(0, 40)) for _ in range(sources)]
    return samples, first, [a + b for a, b in zip(first, counts, strict=True)], world


def rows_of(table: Table, take: Take, source: int, first: int) -> list[int]:
    return [*table.own_rows(source, first, take.own).tolist(), *take.taken]


@given(step=steps(), data=st.data())
def test_ranks_together_use_each_row_of_a_step_once(
    step: tuple[tuple[int, ...], list[int], list[int], int], data: st.DataObject
) -> None:
    samples, first, stop, world = step
    giving = tuple(data.draw(st.permutations(range(len(samples)))))
    turns = tuple(data.draw(st.integers(0, world - 1)) for _ in samples)
    tables = [Table(samples, giving, turns, rank, world) for rank in range(world)]
    takes = [table.takes(first, stop) for table in tables]
    for source in range(len(samples)):
        used = [
            row
            for table, of_rank in zip(tables, takes, strict=True)
            for row in rows_of(table, of_rank[source], source, first[source])
        ]
        assert sorted(used) == [*range(first[source], stop[source])]
    rows = [sum(take.rows for take in of_rank) for of_rank in takes]
    assert sum(rows) == sum(stop) - sum(first)
    assert rows == sorted(rows, reverse=True)
    assert rows[0] - rows[-1] <= 1


@given(step=steps())
def test_a_rank_moves_no_more_rows_than_it_must(
    step: tuple[tuple[int, ...], list[int], list[int], int],
) -> None:
    samples, first, stop, world = step
    for rank in range(world):
        turns = tuple(3 * source % world for source in range(len(samples)))
        table = Table(samples, tuple(range(len(samples))), turns, rank, world)
        takes = table.takes(first, stop)
        own = [
            sum((row % samples[source] + turns[source]) % world == rank for row in range(a, b))
            for source, (a, b) in enumerate(zip(first, stop, strict=True))
        ]
        assert [take.own + take.given for take in takes] == own
        assert own == [
            table.own_between(source, a, b)
            for source, (a, b) in enumerate(zip(first, stop, strict=True))
        ]
        given, taken = (sum(take.given for take in takes), sum(len(t.taken) for t in takes))
        assert not given or not taken
        assert given - taken == sum(own) - sum(take.rows for take in takes)
        # A source's own rows are moved after all those of the sources before it.
        moved = [take.given for take in takes]
        last = max((source for source, count in enumerate(moved) if count), default=0)
        assert moved[:last] == own[:last] or not given


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any))
def test_each_source_is_spread_evenly_over_a_batch(counts: list[int]) -> None:
    where = places(tuple(counts))
    rows = sum(counts)
    assert sorted(np.concatenate(where).tolist()) == [*range(rows)]
    for count, place in zip(counts, where, strict=True):
        assert place.tolist() == sorted(place.tolist())
        given = [0, *accumulate(np.isin(np.arange(rows), place).tolist())]
        for row, so_far in enumerate(given):
            assert abs(so_far - count * row / rows) <= 1 + len(counts) / 2


@pytest.mark.parametrize("weights", [["0.7", "0.3"], ["1"] * 12, ["1"] * 8, [*"98542"]])
def test_of_batches_of_8_rows_less_than_a_tenth_is_moved(weights: list[str]) -> None:
    shares = Shares(exact(weights))
    # Larger than anything that may be looked at row by row.
    samples = tuple(10**15 + source for source in range(len(weights)))
    turns = staggered(shares.weights, 8, 8)
    moved = 0
    for step in range(5_000, 5_050):
        first, stop = shares.counts(step * 64), shares.counts((step + 1) * 64)
        for rank in range(8):
            table = Table(samples, tuple(range(len(weights))), turns, rank, 8)
            moved += sum(len(take.taken) for take in table.takes(first, stop))
    assert moved / (50 * 64) < 0.1
