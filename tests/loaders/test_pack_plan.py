"""The plan of packs: all packs together are the stream, whatever the shards it lies in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loaders.layout import lay_out
from loaders.pack_plan import plan_packs

LENGTHS = st.lists(st.integers(0, 40), max_size=80).map(lambda some: np.array(some, np.int64))


@given(lengths=LENGTHS, cuts=st.lists(st.integers(0, 80), max_size=4), rows=st.integers(1, 9))
def test_the_plan_does_not_depend_on_how_documents_lie_in_shards(lengths, cuts, rows) -> None:
    whole = plan_packs([lengths], 16, rows)
    divided = plan_packs(
        np.split(lengths, sorted(min(cut, len(lengths)) for cut in cuts)), 16, rows
    )
    assert divided.token.tolist() == whole.token.tolist()
    assert divided.last_rows == whole.last_rows


@given(lengths=LENGTHS, rows=st.integers(1, 9))
def test_without_packing_each_row_is_a_piece_of_a_document(lengths, rows) -> None:
    plan = plan_packs([lengths], 16, rows, "none")
    assert plan.token[-1] == lengths.sum()
    assert plan.all_rows == sum(-(-length // 16) for length in lengths.tolist())


@given(lengths=LENGTHS, rows=st.integers(1, 9))
def test_packs_follow_each_other_and_each_is_what_its_documents_say(lengths, rows) -> None:
    plan = plan_packs([lengths], 16, rows)
    starts = np.cumsum([0, *lengths])
    assert plan.token[-1] == lengths.sum()
    for number in range(plan.packs):
        at, end = plan.token[number], plan.token[number + 1]
        stop = min(at + 16 * rows, starts[-1])
        inside = np.unique(starts[(starts > at) & (starts < stop)]) - at
        layout = lay_out("best_fit", inside, stop - at, bool((starts == stop).any()), 16, rows)
        assert layout.tokens == end - at
        last = number == plan.packs - 1
        assert layout.rows == (plan.last_rows if last else rows)
    assert 0 <= plan.padding < 1
    assert plan.all_rows * 16 * (1 - plan.padding) - lengths.sum() < 1e-6
