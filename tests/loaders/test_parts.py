"""Rows of any length that divides max_seq_len: each token once, whenever the length changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.order import Order
from loaders.parts import Deal, History
from loaders.schedule import Span
from tests.loaders.strategies import MAX_SEQ_LEN, SEQ_LENS, places

ROW = 4096
NOTHING: History = ()


@st.composite
def orders(draw: st.DrawFn, most: int = 3000) -> Order:
    return Order(
        samples=draw(st.integers(1, most)),
        sample_bytes=draw(st.sampled_from([ROW, 1 << 18])),
        lanes=draw(st.sampled_from([1, 4, 24, 960])),
        seed=draw(st.integers(0, 2**64 - 1)),
        shuffle=draw(st.booleans()),
    )


def tokens_of(rows: np.ndarray, seq_len: int) -> np.ndarray:
    """[rows, seq_len]: the numbers of their tokens in the stream."""
    return rows[:, None] * seq_len + np.arange(seq_len)


@given(order=orders(), seq_len=st.sampled_from(SEQ_LENS), epoch=st.integers(0, 3))
def test_every_row_comes_once_an_epoch(order: Order, seq_len: int, epoch: int) -> None:
    rows = Deal(order, seq_len, MAX_SEQ_LEN).rows()
    seen = rows.sample_at(epoch, np.arange(rows.samples))
    assert np.array_equal(np.sort(seen), np.arange(rows.samples))


@given(order=orders(), seq_len=st.sampled_from(SEQ_LENS))
def test_the_samples_are_dealt_in_the_same_order_whatever_the_rows(
    order: Order, seq_len: int
) -> None:
    # The first part of every sample, in the order they come, is the order itself.
    rows = Deal(order, seq_len, MAX_SEQ_LEN).rows()
    seen = rows.sample_at(1, np.arange(rows.samples))
    parts = MAX_SEQ_LEN // seq_len
    firsts = seen[seen % parts == 0] // parts
    assert np.array_equal(firsts, order.sample_at(1, np.arange(order.samples)))


@given(order=orders(), data=st.data())
def test_each_token_counts_once_however_often_the_length_of_rows_changes(
    order: Order, data: st.DataObject
) -> None:
    counted = np.zeros(order.samples * MAX_SEQ_LEN, np.int64)
    deal = Deal(order, data.draw(st.sampled_from(SEQ_LENS)), MAX_SEQ_LEN)
    at, history = 0, NOTHING
    for change in range(data.draw(st.integers(1, 4))):
        if change:
            after = Deal(order, data.draw(st.sampled_from(SEQ_LENS)), MAX_SEQ_LEN)
            at, history = after.place_after(at, history, deal.seq_len)
            deal = after
        left = order.samples * deal.parts - at
        # Mostly a few rows, so that lengths change several times inside a round.
        steps = data.draw(st.one_of(st.integers(0, 3 * order.lanes), st.integers(0, left)))
        at, history = count(counted, deal, at, history, min(steps, left))
    count(counted, deal, at, history, order.samples * deal.parts - at)
    assert (counted == 1).all()


def count(
    counted: np.ndarray, deal: Deal, at: int, history: History, rows: int
) -> tuple[int, History]:
    """Adds the tokens of the next rows whose labels count; where that leads."""
    span = Span(deal.rows(at, history), 0, at, 1, False)
    samples = span.order.sample_at(0, np.arange(at, at + rows))
    read = np.zeros(rows, np.int64)
    before = span.read_before[:rows]
    read[: before.size] = before
    counts = np.arange(deal.seq_len) >= read[:, None]
    np.add.at(counted, tokens_of(samples, deal.seq_len)[counts], 1)
    until = deal.begun_until(at, history)
    return at + rows, history if at + rows < until else ()


@given(order=orders(), data=st.data())
def test_no_row_is_given_that_holds_nothing_new(order: Order, data: st.DataObject) -> None:
    deal, at, history = data.draw(places(order))
    read = Span(deal.rows(at, history), 0, at, 1, False).read_before
    assert ((read >= 0) & (read < deal.seq_len)).all()
    assert len(read) <= order.lanes * deal.parts


@settings(max_examples=30)
@given(order=orders(most=800), data=st.data(), world=st.sampled_from([1, 2, 4]))
def test_ranks_share_the_rest_of_a_begun_round(
    order: Order, data: st.DataObject, world: int
) -> None:
    deal, at, history = data.draw(places(order))
    rows = deal.rows(at, history)
    alone = Span(rows, 2, at, 4, False)
    ranks = [Span(rows, 2, at, 4 // world, False, rank, world) for rank in range(world)]
    given = [list(rank.samples()) for rank in ranks]
    size = 4 // world
    for step in range(alone.steps):
        together = [s for rank in given for s in rank[step * size : (step + 1) * size] if s >= 0]
        mine = rows.sample_at(2, np.arange(at + 4 * step, min(at + 4 * step + 4, rows.samples)))
        assert sorted(together) == sorted(mine.tolist())
    read = np.concatenate([rank.read_before for rank in ranks])
    assert sorted(read.tolist()) == sorted(alone.read_before.tolist())


def test_a_batch_of_short_rows_mixes_as_many_places_as_one_of_long_rows() -> None:
    order = Order(10**6, ROW, seed=3)
    rows = Deal(order, 3, MAX_SEQ_LEN).rows().sample_at(0, np.arange(960))
    assert len(np.unique(rows // 4)) == 960


def test_a_rank_reads_each_block_alone_also_in_short_rows() -> None:
    order = Order(200_000, ROW, lanes=24)
    rows = Deal(order, 3, MAX_SEQ_LEN).rows()
    end = rows.level_end(0)
    assert end > 0.97 * rows.samples
    blocks = [rows.sample_at(0, np.arange(rank, end, 8)) // 4 // order.block for rank in range(8)]
    assert sum(len(np.unique(one)) for one in blocks) == len(np.unique(np.concatenate(blocks)))


@pytest.mark.parametrize(
    ("at", "history", "words"),
    [
        (4001, (), "position 4001 lies behind the 4000 samples"),
        (5, ((4, 9999),), "9999 rows of 4 tokens, where a round of 24 samples has 72 left"),
        (5, ((3, 96),), r"\[\[3, 96\]\] leave nothing of the round of position 5"),
        (1, ((3, 24),), r"position 1 lies before row 24, where \[\[3, 24\]\] end"),
        (0, ((3, 24),), r"position 0 lies before row 24, where \[\[3, 24\]\] end"),
    ],
)
def test_a_place_that_cannot_be_is_refused(at: int, history: History, words: str) -> None:
    deal = Deal(Order(1000, ROW, lanes=24), 3, MAX_SEQ_LEN)
    with pytest.raises(ValueError, match=words):
        deal.place_after(at, history, 3)
