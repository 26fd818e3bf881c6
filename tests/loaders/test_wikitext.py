"""The loader over real text: WikiText-2 in Llama 3's and GPT-2's ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

from loaders import DataLoader, TokenDataLoader, TokenDataset
from tests.datasets import write_dataset
from tests.loaders.support import token_loader

BATCH = 8
STEPS = 50
TOKENIZERS = {"llama-3": "<|end_of_text|>", "gpt2": "<|endoftext|>"}  # what ends a document


@pytest.fixture(scope="module", params=TOKENIZERS)
def dataset(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> TokenDataset:
    tokenizer = Tokenizer.from_file(
        str(shared / "data/tokenizers" / request.param / "tokenizer.json")
    )
    end = np.array([tokenizer.token_to_id(TOKENIZERS[request.param])])
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    shards: list[Any] = []
    for name in ("test", "valid"):
        texts = pq.read_table(shared / f"data/wikitext-2/{name}.parquet")["text"].to_pylist()
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        shards.append([np.append(one.ids, end).astype(dtype) for one in encoded])
    uri = str(tmp_path_factory.mktemp("wikitext") / "tokens")
    manifest = write_dataset(uri, shards)
    return TokenDataset(uri, manifest.tokens // (BATCH * STEPS))


def rows(loader: TokenDataLoader) -> list[torch.Tensor]:
    return [batch["input_ids"].clone() for batch in loader]


def sorted_rows(batch: torch.Tensor) -> list[list[int]]:
    return sorted(batch.tolist())


@pytest.fixture(scope="module")
def epoch(dataset: TokenDataset) -> list[torch.Tensor]:
    return rows(token_loader(dataset, BATCH, True, drop_last=True))


def test_every_sample_comes_once_and_together_they_are_the_text(dataset: TokenDataset) -> None:
    seen = torch.cat(rows(token_loader(dataset, BATCH, True)))
    stored = torch.cat(rows(token_loader(dataset, BATCH)))
    assert sorted_rows(seen) == sorted_rows(stored)
    assert not torch.equal(seen, stored)
    flat = stored.flatten()
    for number, shard in enumerate(dataset.stream.starts[:-1].tolist()):
        path = Path(dataset.uri) / dataset.stream.dataset.path(number)
        with pa.ipc.open_file(path) as reader:
            tokens = reader.get_batch(0).column("input_ids").values.to_numpy()
        part = flat[shard : shard + len(tokens)].numpy()
        assert np.array_equal(part, tokens[: len(part)])


@pytest.mark.parametrize("world", [2, 4, 8])
def test_same_global_batch_on_1_2_4_8_ranks(
    dataset: TokenDataset, epoch: list[torch.Tensor], world: int
) -> None:
    ranks = [
        rows(
            token_loader(
                dataset,
                BATCH // world,
                True,
                drop_last=True,
                data_parallel_rank=rank,
                data_parallel_size=world,
            )
        )
        for rank in range(world)
    ]
    for step, alone in enumerate(epoch):
        assert sorted_rows(torch.cat([rank[step] for rank in ranks])) == sorted_rows(alone)


def test_restored_at_every_step_it_continues_exactly(
    dataset: TokenDataset, epoch: list[torch.Tensor]
) -> None:
    undisturbed = token_loader(dataset, BATCH, True, drop_last=True)
    states: list[Any] = [undisturbed.state_dict()]
    states += [undisturbed.state_dict() for _ in undisturbed]
    assert len(states) == len(epoch) + 1
    for step, state in enumerate(states):
        restored = token_loader(dataset, BATCH, True, drop_last=True)
        restored.load_state_dict(state)
        tail = rows(restored)
        assert len(tail) == len(epoch) - step
        assert all(map(torch.equal, tail, epoch[step:]))


def test_a_batch_kept_for_the_whole_epoch_is_unchanged(
    dataset: TokenDataset, epoch: list[torch.Tensor]
) -> None:
    kept = list(DataLoader(dataset, BATCH, True, drop_last=True))
    assert all(torch.equal(batch["input_ids"], ids) for batch, ids in zip(kept, epoch, strict=True))
    assert all(torch.equal(batch["labels"], ids) for batch, ids in zip(kept, epoch, strict=True))
