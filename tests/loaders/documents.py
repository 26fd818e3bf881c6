"""Datasets of documents of any lengths, and what the tests know about where they begin."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.datasets import write_dataset

Ints = npt.NDArray[np.int64]


def write_documents(
    uri: str,
    shards: Sequence[Sequence[int]],
    *,
    dtype: str = "uint32",
    mask: npt.NDArray[np.uint8] | None = None,
    first_token: int = 0,
) -> Ints:
    """Writes documents of these lengths, a list for each shard, whose tokens are their places in
    the stream, counted from `first_token`. Returns with which ones documents begin, those without a
    token left out.
    """
    lengths = np.array([length for shard in shards for length in shard], np.int64)
    ends = lengths.cumsum()
    values = np.split((np.arange(ends[-1]) + first_token).astype(dtype), ends[:-1])
    first, documents, masks = 0, [], []
    for shard in shards:
        documents.append(values[first : first + len(shard)])
        if mask is not None:
            at = ends[first] - lengths[first]
            masks.append(mask[at : at + sum(shard)])
        first += len(shard)
    write_dataset(uri, documents, loss_masks=masks or None)
    return np.unique((ends - lengths)[lengths > 0]) + first_token


def natural_lengths(documents: int, seed: int = 0, mean: float = 3.0) -> list[int]:
    """Lengths spread as those of texts are: most are short, some long; a few are 0 or 1."""
    some = np.random.default_rng(seed).lognormal(mean, 1.2, documents).astype(int)
    some[:: documents // 7 or 1] = 0
    some[3 :: documents // 5 or 1] = 1
    return [int(length) for length in some]
