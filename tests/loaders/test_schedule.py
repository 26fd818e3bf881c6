"""The schedule: every row finds its sample in a run that has been opened and not yet closed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.order import Order
from loaders.schedule import Chunk, ResidentPlan, Span, StreamingPlan, chunks
from tests.loaders.strategies import begun

ROW = 4096


@st.composite
def spans(draw: st.DrawFn) -> Span:
    lanes = draw(st.sampled_from([1, 4, 12, 24]))
    order = Order(
        samples=draw(st.integers(1, 12_000)),
        sample_bytes=draw(st.sampled_from([ROW, 3 * ROW, 1 << 18])),
        lanes=lanes,
        seed=draw(st.integers(0, 100)),
        shuffle=draw(st.booleans()),
    )
    world = draw(st.sampled_from([size for size in (1, 2, 4, 12) if lanes % size == 0]))
    rows, start = draw(begun(order))
    return Span(
        rows,
        epoch=draw(st.integers(0, 3)),
        start=draw(st.one_of(st.just(start), st.integers(start, rows.samples))),
        batch_size=draw(st.sampled_from([1, 3, 8, 100])),
        drop_last=draw(st.booleans()),
        rank=draw(st.integers(0, world - 1)),
        world_size=world,
    )


def replay(span: Span, cut: list[Chunk], *, forgets: bool) -> tuple[list[int], int]:
    """The samples as a reader with nothing but the chunks would see them, and the most runs held at
    once.
    """
    held: dict[int, tuple[int, int]] = {}
    samples: list[int] = []
    most = 0
    for chunk in cut:
        for run in chunk.opened:
            assert run.number not in held
            held[run.number] = (run.first, run.count)
        most = max(most, len(held))
        for number, row in zip(chunk.run.tolist(), chunk.row.tolist(), strict=True):
            first, count = held[number]
            assert 0 <= row < count
            samples.append(first + row)
        for number in chunk.closed:
            del held[number]
    if forgets and not span.drop_last:
        assert not held
    return samples, most


def expected(span: Span) -> list[int]:
    stop = span.start + min(span.left, span.steps * span.global_batch)
    positions = np.arange(span.start, stop)
    mine = positions[positions % span.world_size == span.rank]
    return [int(sample) for sample in span.order.sample_at(span.epoch, mine)]


@given(span=spans(), rows=st.sampled_from([1, 50, 1000]))
def test_streamed_rows_are_the_orders_samples(span: Span, rows: int) -> None:
    opened = StreamingPlan.runs_for_a_batch(span.order, span.world_size, span.batch_size)
    cut = list(chunks(StreamingPlan(span), rows, opened))
    samples, most = replay(span, cut, forgets=True)
    assert samples == expected(span)
    assert most <= StreamingPlan.open_runs(span.order, span.world_size) + opened
    assert sum(chunk.steps for chunk in cut) == span.steps


@given(span=spans(), size=st.sampled_from([1, 7, 256]), data=st.data())
def test_resident_rows_are_the_orders_samples(span: Span, size: int, data: st.DataObject) -> None:
    runs = -(-span.order.samples // size)
    held = (
        np.array(data.draw(st.lists(st.booleans(), min_size=runs, max_size=runs)))
        if runs < 50
        else np.zeros(runs, bool)
    )
    cut = list(chunks(ResidentPlan(span, size, held), 1000, 1 << 60))
    opened = [run.number for chunk in cut for run in chunk.opened]
    assert len(set(opened)) == len(opened)
    assert not held[opened].any()
    samples = [s for chunk in cut for s in (chunk.run * size + chunk.row).tolist()]
    assert samples == expected(span)
    assert not any(chunk.closed for chunk in cut)


@given(span=spans())
def test_ranks_have_the_same_steps_and_rows_and_share_every_sample(span: Span) -> None:
    order = span.order
    of_rank = [
        Span(order, span.epoch, span.start, span.batch_size, span.drop_last, rank, span.world_size)
        for rank in range(span.world_size)
    ]
    assert len({(one.steps, one.padded_rows) for one in of_rank}) == 1
    assert all(0 <= one.padded_rows - one.rows <= 1 for one in of_rank)
    together = sorted(s for one in of_rank for s in one.samples() if s >= 0)
    stop = span.start + min(span.left, span.steps * span.global_batch)
    wanted = order.sample_at(span.epoch, np.arange(span.start, stop))
    assert together == sorted(wanted.tolist())
    if not span.drop_last:
        assert stop == order.samples


@pytest.mark.parametrize("shuffle", [True, False])
@settings(max_examples=12)
@given(seed=st.integers(0, 1000), start=st.integers(0, 800))
def test_same_global_batch_on_every_world_size(shuffle: bool, seed: int, start: int) -> None:
    order = Order(5000, ROW, lanes=960, seed=seed, shuffle=shuffle)
    seen = []
    for world in (1, 2, 4, 8, 15, 60, 120):
        ranks = [
            list(Span(order, 1, start, 120 // world, True, r, world).samples())
            for r in range(world)
        ]
        size = 120 // world
        steps = len(ranks[0]) // size
        seen.append(
            [
                sorted(s for rank in ranks for s in rank[i * size : (i + 1) * size])
                for i in range(steps)
            ]
        )
    assert all(one == seen[0] for one in seen)
    assert len(seen[0]) == (5000 - start) // 120


def test_chunks_grow_from_one_batch_to_their_full_size() -> None:
    span = Span(Order(4000, ROW), 0, 0, 8, True)
    cut = list(chunks(StreamingPlan(span), 128, 10**9))
    assert [chunk.steps for chunk in cut[:6]] == [1, 2, 4, 8, 16, 16]


def test_chunks_shrink_when_memory_is_short() -> None:
    span = Span(Order(4000, ROW), 0, 0, 8, True)
    cut = list(chunks(StreamingPlan(span), 128, 20))
    assert max(len(chunk.opened) for chunk in cut) <= 20
    assert sum(chunk.steps for chunk in cut) == 500


def test_one_pass_reads_every_byte_once() -> None:
    order = Order(200_000, ROW, lanes=24)
    read = 0
    for rank in range(4):
        cut = chunks(StreamingPlan(Span(order, 0, 0, 32, False, rank, 4)), 1024, 10**9)
        read += sum(run.count for chunk in cut for run in chunk.opened)
    assert read == order.samples
