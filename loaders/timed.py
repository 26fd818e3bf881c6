"""torch's own iterators, with batches and waits counted: what a foreign dataset is read by."""

import time
from typing import Any

from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from loaders.stats import Stats


class _Timed(_BaseDataLoaderIter):
    """Counts into the `stats` that its loader has as `_stats`."""

    def __init__(self, loader: Any) -> None:
        self._stoker_stats: Stats = loader._stats
        self._stoker_began: int | None = time.perf_counter_ns()
        super().__init__(loader)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        """torch's iterators with persistent workers start over in this way."""
        if not first_iter:
            self._stoker_began = time.perf_counter_ns()
        super()._reset(loader, first_iter)

    def __next__(self) -> Any:
        began = time.perf_counter_ns()
        batch = super().__next__()
        self._stoker_stats.taken(began, self._stoker_began)
        self._stoker_began = None
        return batch


class TimedSingle(_Timed, _SingleProcessDataLoaderIter):
    """In this process."""


class TimedMulti(_Timed, _MultiProcessingDataLoaderIter):
    """By worker processes."""
