"""The order's promises, as arithmetic: no file is read here."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.order import Order, check_world_size

ROW = 4096  # bytes of a sample: blocks of at most 256 samples


@st.composite
def orders(draw: st.DrawFn) -> Order:
    return Order(
        samples=draw(st.integers(1, 20_000)),
        sample_bytes=draw(st.sampled_from([ROW, 3 * ROW, 1 << 17, 1 << 22])),
        lanes=draw(st.sampled_from([1, 2, 6, 8, 24, 960])),
        seed=draw(st.integers(-5, 2**63)),
    )


def everything(order: Order, epoch: int = 0) -> np.ndarray:
    return order.sample_at(epoch, np.arange(order.samples))


@given(order=orders(), epoch=st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(order: Order, epoch: int) -> None:
    assert np.array_equal(np.sort(everything(order, epoch)), np.arange(order.samples))


@given(order=orders(), data=st.data())
def test_a_position_alone_is_the_same_as_within_its_epoch(
    order: Order, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.integers(0, order.samples - 1), min_size=1, max_size=20))
    assert np.array_equal(order.sample_at(2, np.array(wanted)), everything(order, 2)[wanted])


@given(order=orders())
def test_an_open_run_is_read_to_its_end_before_it_closes(order: Order) -> None:
    for world in (1, order.lanes):
        for rank in {0, world - 1}:
            start = rank
            while start < order.samples:
                end = order.level_end(start)
                positions = np.arange(start, end, world)
                start = int(positions[-1]) + world
                _check_runs(order, positions, world)


def _check_runs(order: Order, positions: np.ndarray, world: int) -> None:
    places = order.places(0, positions, world)
    assert np.array_equal(places.samples, order.sample_at(0, positions))
    run_of_lane: dict[int, tuple[int, int, int]] = {}
    for position, first, count, opens, closes in zip(
        positions % order.lanes,
        places.first,
        places.count,
        places.opens,
        places.closes,
        strict=True,
    ):
        if opens:
            assert position not in run_of_lane
            run_of_lane[position] = (first, count, 0)
        assert run_of_lane[position][:2] == (first, count)
        run_of_lane[position] = (first, count, run_of_lane[position][2] + 1)
        if closes:
            assert run_of_lane.pop(position)[2] == count
    assert not run_of_lane


@given(samples=st.integers(1, 9000), world=st.sampled_from([1, 2, 3, 8, 300]))
def test_without_shuffle_position_is_sample(samples: int, world: int) -> None:
    order = Order(samples, ROW, shuffle=False)
    assert np.array_equal(everything(order), np.arange(samples))
    positions = np.arange(world - 1, samples, world)
    if positions.size:
        places = order.places(0, positions, world)
        assert np.array_equal(places.samples, positions)
        assert places.opens[0]
        assert places.closes[-1]
        assert np.array_equal(places.opens[1:], np.diff(places.first) > 0)
        assert np.array_equal(places.closes[:-1], np.diff(places.first) > 0)
        assert (places.row < places.count).all()


def test_epochs_and_seeds_differ() -> None:
    first = everything(Order(5000, ROW, seed=1))
    for other in (
        everything(Order(5000, ROW, seed=1), epoch=1),
        everything(Order(5000, ROW, seed=2)),
    ):
        assert (first == other).mean() < 0.01


def test_a_lane_reads_at_least_sixteen_blocks_of_at_most_a_mebibyte() -> None:
    for samples in (10, 1000, 20_000, 10**6, 10**9):
        order = Order(samples, ROW)
        level = order.levels[0]
        assert level.block * ROW <= 1 << 20
        assert level.block == 1 or level.dealt // order.lanes >= 16
    assert order.block * ROW == 1 << 20


def test_almost_everything_is_read_in_the_largest_blocks() -> None:
    order = Order(10**7, ROW)
    assert order.levels[0].samples / order.samples > 0.97
    assert [level.block for level in order.levels] == sorted(
        (level.block for level in order.levels), reverse=True
    )
    assert order.levels[-1].block == 1


def test_lanes_change_blocks_one_after_the_other() -> None:
    # Rule 3: in every thousand steps of a rank about as many blocks are opened as in any other.
    order, world = Order(10**7, ROW), 8
    lanes = order.lanes // world
    opened = np.array(
        [
            order.places(0, np.arange(turn, turn + 1000) * world, world).opens.sum()
            for turn in range(lanes * 256, lanes * 256 * 3, 1000)
        ]
    )
    even = 1000 / 256
    assert opened.min() >= even - 2
    assert opened.max() <= even + 2


def test_a_batch_is_drawn_from_all_over_the_data() -> None:
    samples = Order(10**7, ROW).sample_at(0, np.arange(960)) / 10**7
    counts, _ = np.histogram(samples, bins=8, range=(0, 1))
    assert counts.min() > 60
    assert counts.max() < 180


def test_every_epoch_shuffles_like_a_deck_within_small_data() -> None:
    # Below lanes x 16 blocks it is one keyed permutation: no window at all.
    order = Order(586, ROW)
    assert [(level.block, level.samples) for level in order.levels] == [(1, 586)]
    where = np.array([np.argsort(everything(order, epoch)) for epoch in range(200)])
    mean = where.mean(axis=0)
    assert abs(mean.mean() - 292.5) < 1e-9
    assert mean.std() < 1.2 * 586 / np.sqrt(12) / np.sqrt(200)


@settings(max_examples=20)
@given(position=st.integers(0, 15 * 10**12 // 4096 - 960), seed=st.integers(0, 2**64 - 1))
def test_fifteen_trillion_tokens_cost_nothing(position: int, seed: int) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    order = Order(15 * 10**12 // 4096, 4 * 4096, seed=seed)
    samples = order.sample_at(3, np.arange(position, position + 960))
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(samples)) == 960
    assert 0 <= samples.min() <= samples.max() < order.samples
    assert seconds < 0.5
    assert peak < 4 << 20


def test_a_world_size_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(
        ValueError, match=r"7 data-parallel ranks cannot share 960 lanes.*: 1, 2, .*, 12"
    ):
        check_world_size(7, 0, 960)
    with pytest.raises(ValueError, match="data_parallel_rank 4 is not one of the 4 ranks 0 to 3"):
        check_world_size(4, 4, 960)
    check_world_size(8, 7, 960)
