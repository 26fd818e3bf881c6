"""What a state holds, and what it is refused for: always with both values named."""

import json
import re
from typing import Any

import pytest

from loaders import TokenDataset
from tests.loaders.support import token_dataset, token_loader

SEQ_LEN = 64


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("state") / "tokens")
    token_dataset(uri, 405 * SEQ_LEN + 17, seq_len=SEQ_LEN)
    return uri


def test_a_state_is_a_few_plain_values(on_disk: str) -> None:
    loader = token_loader(TokenDataset(on_disk, SEQ_LEN), 8, True, seed=9)
    next(iter(loader))
    state = loader.state_dict()
    assert (state["epoch"], state["position"], state["seed"]) == (0, 8, 9)
    assert (state["seq_len"], state["max_seq_len"], state["begun"]) == (64, 64, [])
    assert len(json.dumps(state)) < 400
    del state["begun"]
    assert all(value is None or isinstance(value, int | str) for value in state.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "another"}, "saved with dataset = 'another', this loader has '"),
        ({"seed": 4}, "saved with seed = 4, this loader has 0"),
        ({"max_seq_len": 32, "seq_len": 32}, "saved with max_seq_len = 32, this loader has 64"),
        ({"lanes": 24}, "saved with lanes = 24, this loader has 960"),
        ({"order_version": 99}, "saved with order_version = 99, this loader has 1"),
        ({"format": 99}, "this state is of format 99, this loader reads format 2"),
        ({"shuffle": False}, "saved with shuffle = False, this loader has True"),
        ({"split": "validation"}, "saved with split = 'validation', this loader has 'train'"),
        ({"source": "web"}, "saved with source = 'web', this loader has None"),
        ({"position": -1}, "not a loader's state: epoch 0, position -1"),
        ({"position": 10**9}, "position 1000000000 lies behind the"),
        ({"position": True}, "not a loader's state: epoch 0, position True"),
        ({"seq_len": 48}, "seq_len 48 doesn't divide max_seq_len 64"),
        ({"seq_len": 0}, "not a loader's state: max_seq_len 64, seq_len 0"),
        ({"begun": [[16]]}, "not a loader's state: max_seq_len 64"),
        ({"begun": 3}, "not a loader's state: max_seq_len 64"),
        ({"begun": [[16, 10**9]]}, "1000000000 rows of 16 tokens, where a round of 405 samples"),
        ({"begun": [[64, 9]], "position": 5}, "position 5 lies before row 9, where [[64, 9]] end"),
        ({"begun": [[64, 405]]}, "[[64, 405]] leave nothing of the round of position 0"),
        ({"more": 1}, "not a loader's state: missing [], unknown ['more']"),
    ],
)
def test_a_state_of_something_else_is_refused_with_both_named(
    on_disk: str, change: dict[str, Any], words: str
) -> None:
    loader = token_loader(TokenDataset(on_disk, SEQ_LEN), 8, True)
    before = loader.state_dict()
    with pytest.raises(ValueError, match=re.escape(words)):
        loader.load_state_dict({**before, **change})
    assert loader.state_dict() == before


def test_a_state_of_the_first_format_is_refused_with_both_named(on_disk: str) -> None:
    loader = token_loader(TokenDataset(on_disk, SEQ_LEN), 8, True)
    with pytest.raises(ValueError, match="of format 1, this loader reads format 2"):
        loader.load_state_dict({"dataset": "x", "version": 1, "epoch": 0, "position": 0})
    with pytest.raises(ValueError, match="it is a list, expected a dict"):
        loader.load_state_dict([])  # type: ignore[arg-type]
