"""Real token datasets for the loader's tests, and what the tests ask about threads and batches."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders import DataLoader, TokenDataLoader, TokenDataset
from tests.datasets import write_dataset

# Ways to hold the tests' datasets: all of it, or a few small blocks at a time.
Modes: dict[str, dict[str, Any]] = {
    "resident": {},
    "streaming": {"prefetch_bytes": 16_384, "lanes": 8},
}


def token_dataset(
    uri: str,
    tokens: int,
    *,
    seq_len: int,
    dtype: str = "uint32",
    mask: npt.NDArray[np.uint8] | None = None,
) -> TokenDataset:
    """A dataset whose token at each position of the stream is that position.

    Three shards of documents of uneven length, one of them of 5 tokens: the shards end inside
    samples. `mask`: the loss mask of the whole stream.
    """
    values = np.arange(tokens).astype(dtype)
    cuts = [0, tokens // 3, tokens // 3 + 5, tokens]
    documents = [np.split(values[a:b], _document_ends(b - a)) for a, b in pairwise(cuts)]
    masks = None if mask is None else [mask[a:b] for a, b in pairwise(cuts)]
    write_dataset(uri, documents, loss_masks=masks)
    return TokenDataset(uri, seq_len)


def _document_ends(tokens: int) -> npt.NDArray[np.int64]:
    return np.arange(1, 40, dtype=np.int64).cumsum()[: max(0, min(39, tokens // 100))]


def token_loader(dataset: TokenDataset, *args: Any, **kwargs: Any) -> TokenDataLoader:
    """`DataLoader(dataset, ...)`, with its type known."""
    loader = DataLoader(dataset, *args, **kwargs)
    assert isinstance(loader, TokenDataLoader)
    return loader


def first_tokens(batch: dict[str, torch.Tensor]) -> list[int]:
    """The first token of each row; -1 for a row of padding."""
    padding = (batch["labels"] == -100).all(dim=1)
    return [int(token) for token in batch["input_ids"][:, 0].masked_fill(padding, -1)]


def stoker_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("stoker-")]


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)
