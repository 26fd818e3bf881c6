"""Every nanosecond of a window is attributed once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.explain.attribution import attribute, intervals, subtract, union
from benchmarks.starvation.explain.causes import COMPUTE, HOST

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8).map(
    lambda pairs: np.array([sorted(p) for p in pairs], dtype=np.int64).reshape(-1, 2)
)


def points(these: np.ndarray) -> set[int]:
    return {at for start, stop in these for at in range(start, stop)}


@given(st.tuples(st.integers(0, 30), st.integers(30, 60)), spans, st.lists(spans, max_size=4))
def test_every_nanosecond_goes_to_one_cause_as_if_counted_one_by_one(window, busy, causes):
    named = [(f"cause {number}", these) for number, these in enumerate(causes)]
    result = attribute(window, busy, named)

    left = set(range(*window))
    counted = {COMPUTE: len(left & points(busy))}
    left -= points(busy)
    for cause, these in named:
        counted[cause] = len(left & points(these))
        left -= points(these)
    counted[HOST] = len(left)
    assert result.nanoseconds == counted
    assert sum(result.nanoseconds.values()) == result.window == window[1] - window[0]
    assert result.idle == result.window - counted[COMPUTE]


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=6).map(sorted),
    spans,
    st.lists(spans, max_size=3),
    st.lists(spans, max_size=2),
)
def test_every_period_is_split_as_if_it_were_the_whole_window(edges, busy, causes, waits):
    between = [(f"cause {number}", these) for number, these in enumerate(causes)]
    inside = [(f"wait {number}", these) for number, these in enumerate(waits)]
    result = attribute(edges, busy, between, inside)
    assert (result.steps.sum(axis=1) == np.diff(edges)).all()
    for row, window in zip(result.steps, itertools.pairwise(edges), strict=True):
        alone = attribute(window, busy, between, inside)
        assert alone.nanoseconds == dict(zip(result.nanoseconds, row, strict=True))
        waited = set(range(*window)) & points(busy) & set().union(*map(points, waits))
        assert alone.share(*(name for name, _ in inside)) * alone.window == pytest.approx(
            len(waited)
        )


@given(st.data())
def test_shares_sum_to_one_on_random_timelines_of_real_length(data):
    at = sorted(data.draw(st.lists(st.integers(0, 10**12), min_size=4, max_size=60)))
    busy = np.array(at[: len(at) // 2 * 2], dtype=np.int64).reshape(-1, 2)
    wait = busy - data.draw(st.integers(-(10**9), 10**9))
    result = attribute((at[0], at[-1] + 1), busy, [("fetch", wait), ("copy", busy + 17)])
    assert sum(result.share(cause) for cause in result.nanoseconds) == pytest.approx(1, abs=1e-12)
    assert sum(result.nanoseconds.values()) == result.window


@given(spans, spans)
def test_interval_arithmetic_is_set_arithmetic(a, b):
    assert points(subtract(a, b)) == points(a) - points(b)
    joined = union(a)
    assert points(joined) == points(a)
    assert (joined[1:, 0] > joined[:-1, 1]).all()


def test_the_first_cause_that_covers_a_moment_gets_it():
    wait = intervals(np.array([10]), np.array([30]))
    copy = intervals(np.array([20]), np.array([50]))
    busy = intervals(np.array([0, 60]), np.array([10, 100]))
    result = attribute((0, 100), busy, [("fetch", wait), ("copy", copy)])
    assert result.nanoseconds == {"compute": 50, "fetch": 20, "copy": 20, "host": 10}
    assert result.share("fetch", "copy") == 0.4


def test_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="-5 ns"):
        attribute((10, 5), np.zeros((0, 2), np.int64), [])
