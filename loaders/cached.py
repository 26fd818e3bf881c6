"""The disk cache that a loader is told to use, if it can hold what that loader reads."""

import os
from pathlib import Path

from loaders.cache import DiskCache
from loaders.dataset import TokenDataset
from loaders.iterator import Budget
from loaders.stats import Stats


def disk_cache(
    folder: str | os.PathLike[str] | None,
    limit: int | None,
    dataset: TokenDataset,
    budget: Budget,
    stats: Stats,
) -> DiskCache | None:
    """The cache in `cache_dir=folder` of `cache_bytes=limit`; None: none is wanted.

    Raises:
        ValueError: only one of the two is given, or a block is larger than the limit.
        shards.errors.StoreError: as `DiskCache`.
    """
    if folder is None and limit is None:
        return None
    if folder is None or limit is None:
        raise ValueError(
            f"cache_dir={folder!r} and cache_bytes={limit}: give both, the folder and how many "
            "bytes it may hold, or neither"
        )
    block = dataset.read_bytes(budget.slot_samples)
    if limit < block:
        raise ValueError(
            f"cache_bytes={limit} is less than a block, {block} bytes here, so nothing would be "
            "kept: give many times that, or neither cache_dir nor cache_bytes"
        )
    return DiskCache(Path(folder), limit, dataset.stream.dataset.id, stats.fetch)
