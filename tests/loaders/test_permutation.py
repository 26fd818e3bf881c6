"""The keyed permutation: a permutation for every size, and a fair one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loaders.permutation import keys, permute

seeds = st.integers(-(2**63), 2**64)


@given(size=st.integers(1, 5000), seed=seeds)
def test_every_number_comes_once(size: int, seed: int) -> None:
    image = permute(np.arange(size), size, keys(seed))
    assert np.array_equal(np.sort(image), np.arange(size))


@given(sizes=st.lists(st.integers(1, 300), min_size=2, max_size=30), seed=seeds)
def test_each_element_may_have_a_size_and_a_key_of_its_own(sizes: list[int], seed: int) -> None:
    index = np.concatenate([np.arange(size) for size in sizes])
    which = np.repeat(np.arange(len(sizes)), sizes)
    together = permute(index, np.repeat(sizes, sizes), keys(seed, which))
    for number, size in enumerate(sizes):
        alone = permute(np.arange(size), size, keys(seed, number))
        assert np.array_equal(together[which == number], alone)


@given(size=st.integers(1, 2**62), index=st.integers(0, 2**62), seed=seeds)
def test_sizes_far_beyond_memory_stay_inside(size: int, index: int, seed: int) -> None:
    assert permute(np.array([index % size]), size, keys(seed))[0] < size


def test_every_place_is_equally_likely_for_every_element() -> None:
    trials = 20_000
    for size in (2, 3, 5, 8, 13, 16, 37):
        index = np.tile(np.arange(size), trials)
        image = permute(index, size, keys(7, np.repeat(np.arange(trials), size)))
        seen = np.zeros((size, size), np.int64)
        np.add.at(seen, (index, image), 1)
        chi2 = float(((seen - trials / size) ** 2 / (trials / size)).sum())
        freedom = (size - 1) ** 2
        assert chi2 < freedom + 5 * np.sqrt(2 * freedom) + 10, (size, chi2, freedom)


def test_neighbours_are_torn_apart() -> None:
    size = 100_000
    image = permute(np.arange(size), size, keys(3)).astype(np.float64)
    lag = np.corrcoef(image[:-1], image[1:])[0, 1]
    place = np.corrcoef(image, np.arange(size))[0, 1]
    assert abs(lag) < 5 / np.sqrt(size)
    assert abs(place) < 5 / np.sqrt(size)


def test_keys_differ_by_every_part() -> None:
    seen = {int(keys(a, b, c)[0]) for a in range(-9, 9) for b in range(9) for c in range(9)}
    assert len(seen) == 18 * 9 * 9
