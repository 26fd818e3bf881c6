"""The plan of packs: all packs together are the stream, whatever the shards it lies in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loaders.pack_plan import plan_packs
from loaders.packing import cut, pack

LENGTHS = st.lists(st.integers(0, 40), max_size=80).map(lambda some: np.array(some, np.int64))


@given(lengths=LENGTHS, cuts=st.lists(st.integers(0, 80), max_size=4), rows=st.integers(1, 9))
def test_the_plan_does_not_depend_on_how_documents_lie_in_shards(lengths, cuts, rows) -> None:
    whole = plan_packs([lengths], 16, rows)
    divided = plan_packs(
        np.split(lengths, sorted(min(cut, len(lengths)) for cut in cuts)), 16, rows
    )
    assert divided.token.tolist() == whole.token.tolist()
    assert divided.document.tolist() == whole.document.tolist()
    assert divided.last_rows == whole.last_rows


@given(lengths=LENGTHS, rows=st.integers(1, 9))
def test_packs_follow_each_other_and_each_is_what_its_documents_say(lengths, rows) -> None:
    plan = plan_packs([lengths], 16, rows)
    starts = np.cumsum([0, *lengths])
    assert plan.token[-1] == lengths.sum()
    for number in range(plan.packs):
        first, at, end = plan.document[number], plan.token[number], plan.token[number + 1]
        documents = lengths[first : plan.document[number + 1] + 1]
        pieces = cut(documents, 16, int(at - starts[first]))
        packed = pack(pieces.length[np.cumsum(pieces.length) <= end - at], 16, rows)
        assert pieces.length[: len(packed.row)].sum() == end - at
        last = number == plan.packs - 1
        assert packed.rows == (plan.last_rows if last else rows)
    assert 0 <= plan.padding < 1
    assert plan.all_rows * 16 * (1 - plan.padding) - lengths.sum() < 1e-6
