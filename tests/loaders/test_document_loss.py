"""With document_mask=True a model learns what it would from each document alone."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loaders import TokenDataset
from tests.loaders.documents import natural_lengths, write_documents
from tests.loaders.support import token_loader

SEQ_LEN = 48
LENGTHS = [natural_lengths(12), natural_lengths(14, seed=1)]


@pytest.fixture(scope="module")
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=SEQ_LEN,
        attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def block_diagonal(cu_seqlens: torch.Tensor, rows: int) -> torch.Tensor:
    """bool [rows, 1, seq_len, seq_len]: who may attend to whom."""
    document = torch.bucketize(torch.arange(rows * SEQ_LEN), cu_seqlens[1:].long(), right=True)
    document = document.view(rows, SEQ_LEN)
    causal = torch.ones(SEQ_LEN, SEQ_LEN, dtype=torch.bool).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("labels", ["same", "next"])
def test_the_loss_is_that_of_the_documents_one_by_one(
    tmp_path: Path, llama: Any, labels: Any, masked: bool
) -> None:
    uri, tokens = str(tmp_path / "tokens"), sum(map(sum, LENGTHS))
    mask = (np.random.default_rng(0).random(tokens) < 0.7).astype(np.uint8)
    write_documents(uri, LENGTHS, mask=mask if masked else None)
    dataset = TokenDataset(uri, SEQ_LEN, labels=labels, document_mask=True)
    with torch.no_grad():
        for batch in token_loader(dataset, 4, True):
            ids, bounds = batch["input_ids"], batch["cu_seqlens"].tolist()
            logits = llama(
                input_ids=ids,
                position_ids=batch["position_ids"],
                attention_mask=block_diagonal(batch["cu_seqlens"], len(ids)),
            ).logits
            shifted = batch["labels"]
            if labels == "same":
                logits, shifted = logits[:, :-1], shifted[:, 1:]
            together = loss(logits, shifted)
            alone = torch.zeros((), dtype=torch.double)
            for start, stop in pairwise(bounds):
                document = ids.flatten()[start:stop][None]
                wanted = batch["labels"].flatten()[start:stop][None].clone()
                predicted = llama(input_ids=document).logits
                if labels == "same":
                    predicted, wanted = predicted[:, :-1], wanted[:, 1:]
                alone += loss(predicted, wanted)
            torch.testing.assert_close(together, alone)
            # What transformers makes of position_ids alone is the same mask.
            by_itself = llama(input_ids=ids, position_ids=batch["position_ids"]).logits
            torch.testing.assert_close(by_itself[:, : logits.shape[1]], logits)


@pytest.mark.slow
def test_a_whole_batch_is_what_transformers_takes(tmp_path: Path, llama: Any) -> None:
    from transformers.modeling_flash_attention_utils import FlashAttentionKwargs

    uri = str(tmp_path / "tokens")
    write_documents(uri, LENGTHS)
    batch = next(iter(token_loader(TokenDataset(uri, SEQ_LEN, document_mask=True), 4, True)))
    assert set(FlashAttentionKwargs.__annotations__) <= set(batch)
    labels = batch["labels"][:, 1:]
    mean = llama(**batch).loss
    logits = llama(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits.float()
    torch.testing.assert_close(mean, loss(logits[:, :-1], labels) / (labels != -100).sum())
