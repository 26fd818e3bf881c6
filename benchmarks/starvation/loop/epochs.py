"""Epoch after epoch of a loader, and which batches began one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.starvation.cards.accelerator import Batch
from shards.errors import StokerError


class Epochs(Iterator[Batch]):
    """Batches without end of something that can be iterated over again and again.

    It holds no batch: one that is kept alive would keep its memory from being used again. `begun`:
    numbers of the batches, from 0 on, that were the first of an epoch, but for the very first.

    Raises:
        StokerError: an epoch without a batch; `empty` is what it says.
    """

    def __init__(self, loader: Iterable[Batch], empty: str) -> None:
        self.begun: list[int] = []
        self._loader, self._empty = loader, empty
        self._batches: Iterator[Batch] | None = None
        self._taken = 0

    def __next__(self) -> Batch:
        # Not before the first batch is asked for: a place may be restored until then.
        if self._batches is None:
            self._batches = iter(self._loader)
        batch = next(self._batches, None)
        if batch is None:
            self.begun.append(self._taken)
            self._batches = iter(self._loader)
            batch = next(self._batches, None)
        if batch is None:
            after = f" (after {self._taken} batches)" if self._taken else ""
            raise StokerError(self._empty + after)
        self._taken += 1
        return batch
