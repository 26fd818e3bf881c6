"""The order of a seed never changes: saved states name positions of it."""

import json

import pytest

from loaders.order import ORDER_VERSION
from tests.loaders.golden_order import GOLDEN, SHAPES, described

PINNED = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_the_order_of_a_seed_never_changes(number: int) -> None:
    assert described(*SHAPES[number]) == PINNED["orders"][number]


def test_the_golden_file_is_of_the_version_that_states_name() -> None:
    assert PINNED["order_version"] == ORDER_VERSION
    assert len(PINNED["orders"]) == len(SHAPES)
