"""Mixtures of small real datasets whose tokens say which source they are of."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loaders import DataLoader, Mixture, MixtureLoader, TokenDataset
from tests.datasets import write_dataset
from tests.loaders.restoring import Make

SEQ_LEN = 16
SPAN = 1_000_000  # tokens of source i are SPAN * i and above
Batch = dict[str, torch.Tensor]


def source(uri: str, number: int, samples: int, seq_len: int = SEQ_LEN) -> TokenDataset:
    """A dataset of `samples` samples and a few tokens more, in two shards.

    The token at each place is SPAN * number + the place.
    """
    values = (SPAN * number + np.arange(samples * seq_len + 5)).astype("uint32")
    cut = samples * seq_len // 3 + 7
    write_dataset(uri, [[values[:cut]], [values[cut:]]])
    return TokenDataset(uri, seq_len)


def mixture_loader(mixture: Mixture, *args: Any, **kwargs: Any) -> MixtureLoader:
    """`DataLoader(mixture, ...)`, with its type known."""
    loader = DataLoader(mixture, *args, **kwargs)
    assert isinstance(loader, MixtureLoader)
    return loader


def ranks(mixture: Mixture, world: int, global_batch: int, **kwargs: Any) -> list[MixtureLoader]:
    """The loaders of `world` ranks that share batches of `global_batch` rows."""
    return [
        mixture_loader(
            mixture,
            global_batch // world,
            data_parallel_rank=rank,
            data_parallel_size=world,
            **kwargs,
        )
        for rank in range(world)
    ]


def made(mixture: Mixture, world: int, global_batch: int, **kwargs: Any) -> Make:
    """The same, for `tests.loaders.restoring`."""
    return lambda: ranks(mixture, world, global_batch, **kwargs)


def rows(batches: Sequence[Batch]) -> list[tuple[int, int]]:
    """Source and sample of each row of a step of all ranks, sorted; every token looked at."""
    found: list[tuple[int, int]] = []
    for batch in batches:
        ids, labels = batch["input_ids"], batch["labels"]
        given = (labels != -100).any(dim=1)
        assert torch.equal(ids[given], labels[given])
        assert torch.equal(ids[given], ids[given][:, :1] + torch.arange(ids.shape[1]))
        assert not ids[~given].any()
        first = ids[given, 0]
        assert not (first % SPAN % ids.shape[1]).any()
        samples = first % SPAN // ids.shape[1]
        found += zip((first // SPAN).tolist(), samples.tolist(), strict=True)
    return sorted(found)


def steps(loaders: Sequence[MixtureLoader], count: int) -> list[list[tuple[int, int]]]:
    """The rows of the next `count` steps, over epochs."""
    together = zip(*(loader.repeat() for loader in loaders), strict=True)
    return [rows(step) for step in islice(together, count)]


def mixture(
    folder: Path | str, samples: Mapping[str, int], weights: Mapping[str, Any], **kwargs: Any
) -> Mixture:
    """Sources of that many samples, numbered in the order of their names."""
    return Mixture(
        {
            name: (source(f"{folder}/{name}", number, samples[name]), weights[name])
            for number, name in enumerate(sorted(samples))
        },
        **kwargs,
    )
