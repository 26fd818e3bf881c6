"""TokenDataset is a list of samples to torch, to its samplers and to its worker processes."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import DistributedSampler

from loaders import TokenDataset
from tests.loaders.support import token_dataset
from tests.servers import S3Server

SEQ_LEN = 96
TOKENS = 50_000  # three shards, which end inside samples


@pytest.fixture(scope="module", params=["disk", "s3"])
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TokenDataset:
    if request.param == "disk":
        uri = str(tmp_path_factory.mktemp("dataset") / "tokens")
    else:
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-dataset") + "/tokens"
    return token_dataset(uri, TOKENS, seq_len=SEQ_LEN)


def expected(index: int) -> torch.Tensor:
    return torch.arange(index * SEQ_LEN, (index + 1) * SEQ_LEN)


def test_a_sample_is_seq_len_consecutive_tokens(dataset: TokenDataset) -> None:
    assert len(dataset) == TOKENS // SEQ_LEN
    for index in (0, 173, 174, len(dataset) - 1):
        sample = dataset[index]
        assert set(sample) == {"input_ids", "labels"}
        assert sample["input_ids"].dtype == sample["labels"].dtype == torch.int64
        assert torch.equal(sample["input_ids"], expected(index))
        assert torch.equal(sample["labels"], expected(index))


def test_it_says_what_it_is(dataset: TokenDataset) -> None:
    shown = f"TokenDataset({dataset.uri!r}, seq_len=96, split='train'"
    assert repr(dataset) == f"{shown}): 520 samples, 50,000 tokens"
    other = TokenDataset(dataset.uri, 96, labels="next", document_mask=True)
    assert repr(other) == f"{shown}, labels='next', document_mask=True): 520 samples, 50,000 tokens"


def test_a_slice_is_a_list_of_samples_that_collate_makes_a_batch_of(dataset: TokenDataset) -> None:
    samples = dataset[4:7]
    assert isinstance(samples, list)
    assert [set(sample) for sample in samples] == [{"input_ids", "labels"}] * 3
    assert torch.equal(dataset.collate(samples)["input_ids"][2], expected(6))


def test_it_indexes_as_a_list(dataset: TokenDataset) -> None:
    assert torch.equal(dataset[-1]["input_ids"], expected(len(dataset) - 1))
    assert torch.equal(dataset[np.int64(7)]["input_ids"], expected(7))
    assert torch.equal(dataset[torch.tensor(7)]["input_ids"], expected(7))
    middle = [sample["input_ids"] for sample in dataset[10:16:2]]
    assert torch.equal(torch.stack(middle), torch.stack([expected(i) for i in (10, 12, 14)]))
    several = [sample["input_ids"] for sample in dataset.__getitems__([5, -1, 5])]
    assert torch.equal(torch.stack(several), torch.stack([expected(i) for i in (5, 519, 5)]))
    assert dataset.__getitems__([]) == []
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match=f"sample {index} of {len(dataset)}"):
            dataset[index]


def test_labels_do_not_alias_input_ids(dataset: TokenDataset) -> None:
    sample = dataset[3]
    sample["labels"].fill_(-100)
    assert torch.equal(sample["input_ids"], expected(3))


def test_it_pickles_small_and_works_again(dataset: TokenDataset) -> None:
    dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[5]["input_ids"], expected(5))
    assert len(pickle.dumps(dataset)) < 100_000


# Forking after the S3 connector was used makes it print its own warning; the data is right.
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_torchs_workers_and_distributed_sampler_use_it(dataset: TokenDataset, context: str) -> None:
    dataset[0]  # this process has its files and clients open
    seen = []
    for rank in range(2 if context == "fork" else 1):
        loader = torch.utils.data.DataLoader(
            dataset,
            8,
            sampler=DistributedSampler(dataset, 2, rank, shuffle=True, drop_last=True),
            num_workers=2 if context == "fork" else 1,
            multiprocessing_context=context,
            timeout=120,
        )
        for batch in loader:
            first = batch["input_ids"][:, :1]
            assert torch.equal(batch["input_ids"], first + torch.arange(SEQ_LEN))
            seen += (first[:, 0] // SEQ_LEN).tolist()
    wanted = len(dataset) // 2 * (2 if context == "fork" else 1)
    assert len(set(seen)) == len(seen) == wanted


def test_seq_len_longer_than_the_data_names_both(tmp_path: Path) -> None:
    uri = str(tmp_path / "tokens")
    token_dataset(uri, 300, seq_len=10)
    with pytest.raises(ValueError, match=r"seq_len=301, but split 'train' has only 300 tokens"):
        TokenDataset(uri, 301)
    assert len(TokenDataset(uri, 300)) == 1
    with pytest.raises(ValueError, match="seq_len must be at least 1, not 0"):
        TokenDataset(uri, 0)


@pytest.mark.parametrize("choice", [{"split": "test"}, {"source": "web"}])
def test_a_split_or_source_that_is_not_there_lists_those_that_are(
    tmp_path: Path, choice: dict[str, Any]
) -> None:
    from shards.errors import DatasetError

    uri = str(tmp_path / "tokens")
    token_dataset(uri, 300, seq_len=10)
    (name,) = choice.values()
    with pytest.raises(DatasetError, match=rf"has no .*{name}.*; it has (train|default)"):
        TokenDataset(uri, 10, **choice)
