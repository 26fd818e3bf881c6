"""The order of a seed never changes: saved states name positions of it."""

import json

import pytest

from loaders.order import ORDER_VERSION
from tests.loaders.golden_order import BEGUN, GOLDEN, SHAPES, described, described_begun

PINNED = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_the_order_of_a_seed_never_changes(number: int) -> None:
    assert described(*SHAPES[number]) == PINNED["orders"][number]


@pytest.mark.parametrize("number", range(len(BEGUN)))
def test_what_is_left_of_a_begun_round_never_changes(number: int) -> None:
    assert described_begun(*BEGUN[number]) == PINNED["begun"][number]


def test_the_golden_file_is_of_the_version_that_states_name() -> None:
    assert PINNED["order_version"] == ORDER_VERSION
    assert (len(PINNED["orders"]), len(PINNED["begun"])) == (len(SHAPES), len(BEGUN))
