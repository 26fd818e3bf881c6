"""Real token datasets for the loader's tests, and what the tests ask about threads and batches."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from loaders import DataLoader, TokenDataLoader, TokenDataset

# Ways to hold the tests' datasets: all of it, or a few small blocks at a time.
Modes: dict[str, dict[str, Any]] = {
    "resident": {},
    "streaming": {"prefetch_bytes": 16_384, "lanes": 8},
}


def token_dataset(uri: str, tokens: int, *, seq_len: int) -> TokenDataset:
    from shards.dataset import write

    t = np.arange(tokens, dtype=np.uint32)
    cut = [0, tokens // 3, tokens // 3 + 5, tokens]
    write(uri, [t[a:b] for a, b in zip(cut, cut[1:]) if b > a])
    return TokenDataset(uri, seq_len)


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
