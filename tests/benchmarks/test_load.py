"""The load bench compares like with like and prints what it measured."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks.load import contenders, main, measure, table
from benchmarks.synthetic import flatten, make_tokens
from loaders import TokenDataset
from shards.verify import verify

ROWS, SEQ_LEN, TOKENS = 4, 64, 50_000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("load")
    uri = make_tokens(folder / "tokens", TOKENS)
    return uri, flatten(uri, folder / "tokens.bin")


def test_the_random_dataset_is_a_whole_dataset_and_the_flat_file_is_its_stream(data):
    uri, flat = data
    verify(uri)
    dataset = TokenDataset(uri, SEQ_LEN)
    tokens = np.fromfile(flat, dtype=np.uint16)
    assert len(tokens) == TOKENS
    for number in (0, 1, len(dataset) - 1):
        run = tokens[number * SEQ_LEN : (number + 1) * SEQ_LEN].astype(np.int64)
        assert dataset[number]["input_ids"].tolist() == run.tolist()


def test_every_contender_gives_int64_batches_of_one_shape_from_the_same_tokens(data):
    uri, flat = data
    samples = {tuple(s["input_ids"].tolist()) for s in TokenDataset(uri, SEQ_LEN)[:]}
    for name, start in contenders(uri, flat, ROWS, SEQ_LEN).items():
        for batch in itertools.islice(start(), 30):
            assert batch["input_ids"].dtype == torch.int64, name
            assert batch["input_ids"].shape == (ROWS, SEQ_LEN), name
            assert {tuple(row.tolist()) for row in batch["input_ids"]} <= samples, name
            if "labels" in batch:
                assert torch.equal(batch["labels"], batch["input_ids"]), name
                assert batch["labels"].data_ptr() != batch["input_ids"].data_ptr(), name


def test_rates_are_medians_beside_the_first():
    rates = {"limit": [4e6, 5e6, 100e6], "other": [1e6, 1e6, 2e6]}
    rows = [line.split() for line in table(rates).splitlines()]
    assert rows[1] == ["limit", "5.0", "4.0", "-", "100.0", "1.000"]
    assert rows[2] == ["other", "1.0", "1.0", "-", "2.0", "0.200"]


def test_rounds_are_interleaved():
    order: list[str] = []

    def source(name: str):
        while True:
            order.append(name)
            yield {}

    rates = measure({"a": source("a"), "b": source("b")}, rounds=3, seconds=0.001, tokens=10)
    assert {name: len(values) for name, values in rates.items()} == {"a": 3, "b": 3}
    runs = [name for name, _ in itertools.groupby(order)]
    assert runs == ["a", "b"] * 4  # once to warm up, then three rounds


def test_the_command_prints_one_table(data, capsys):
    arguments = ["--data", data[0], "--rounds", "1", "--seconds", "0.05"]
    assert main([*arguments, "--batch-size", "4", "--seq-len", "64"]) == 0
    printed = capsys.readouterr().out
    assert "Stoker" in printed
    assert "torch over memmap, 2 workers" in printed


def test_a_missing_dataset_is_one_line(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
