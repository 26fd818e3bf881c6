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
    at = draw(st.integers(0, order.samples * deal.parts))
    history: History = ()
    for _ in range(draw(st.integers(0, 2))):
        after = Deal(order, draw(st.sampled_from(SEQ_LENS)), MAX_SEQ_LEN)
        at, history = after.place_after(at, history, deal.seq_len)
        deal, more = after, draw(st.integers(0, order.lanes * after.parts))
        until = deal.begun_until(at, history)
        at = min(at + more, order.samples * deal.parts)
        history = history if at < until else ()
    return deal, at, history


@st.composite
def begun(draw: st.DrawFn, order: Order) -> tuple[AnyOrder, int]:
    """`order`, most often as it is, or in shorter rows; and the first row that may be asked for."""
    if draw(st.booleans()):
        return order, 0
    deal, at, history = draw(places(order))
    return deal.rows(at, history), at if history else 0
