"""Orders in rows of any length, and the middle of an epoch in which the length was changed."""

from hypothesis import strategies as st

from loaders.order import Order
from loaders.parts import AnyOrder, Deal, History

MAX_SEQ_LEN = 12
SEQ_LENS = (1, 2, 3, 4, 6, 12)


@st.composite
def places(draw: st.DrawFn, order: Order) -> tuple[Deal, int, History]:
    """Up to three lengths of rows, one after the other: the last one's deal, position, history."""
    deal = Deal(order, draw(st.sampled_from(SEQ_LENS)), MAX_SEQ_LEN)
    # Mostly some rows into one of the first rounds.
    rows = order.samples * deal.parts
    at = draw(st.one_of(st.integers(0, rows), st.integers(0, min(rows, 3 * order.lanes))))
    history: History = ()
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        after = Deal(order, draw(st.sampled_from(SEQ_LENS)), MAX_SEQ_LEN)
        at, history = after.place_after(at, history, deal.seq_len)
        deal, until = after, after.begun_until(at, history)
        stays: bool = draw(st.booleans())
        last = until - 1 if history and stays else order.samples * deal.parts
        at = draw(st.integers(at, last))
        history = history if at < until else ()
    return deal, at, history


@st.composite
def begun(draw: st.DrawFn, order: Order) -> tuple[AnyOrder, int]:
    """`order`, as it is or in shorter rows; and the first row that may be asked for."""
    if draw(st.integers(0, 3)) == 0:
        return order, 0
    deal, at, history = draw(places(order))
    return deal.rows(at, history), at if history else 0
