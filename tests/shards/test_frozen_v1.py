"""The version-1 dataset in `frozen-v1` was written once; every later version reads it."""

from pathlib import Path

import numpy as np

from shards.dataset import open_dataset
from shards.verify import verify
from tests.shards.test_dataset import read, read_mask

FROZEN = str(Path(__file__).parent / "frozen-v1")


def test_version_1_is_read_to_the_last_token():
    expected = (np.arange(70_000) * 7919 % 50_257).astype(np.uint16)
    dataset = open_dataset(FROZEN)
    train, validation = dataset.stream(), dataset.stream("validation")
    assert np.array_equal(read(train, 0, train.tokens), expected[:60_000])
    assert np.array_equal(read(validation, 0, validation.tokens), expected[60_000:])
    assert read_mask(train, 39_998, 40_002).tolist() == [1, 1, 0, 1]
    assert dataset.stream(source="code").tokens == 20_000
    assert train.documents == 4


def test_version_1_is_verified_byte_by_byte():
    assert verify(FROZEN).shards == 3


def test_the_id_of_version_1_never_changes():
    assert open_dataset(FROZEN).id == "d87ca11eba74769b"
