"""Work that is done behind the encoding: shards are built and written while the next is filled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Behind(ThreadPoolExecutor):
    """One thread that does what it is given, in that order.

    `hand` is for work that holds a shard: at most one is being written while one is being filled,
    whatever the disk does. `submit`, which doesn't wait, is for all else.
    """

    def __init__(self) -> None:
        super().__init__(1, "behind")
        self._handed: Future[Any] | None = None

    def hand(self, work: Callable[[], T]) -> Future[T]:
        """Does `work` on the thread; waits until what was handed over before is over."""
        if self._handed is not None:
            self._handed.exception()
        handed = self._handed = self.submit(work)
        return handed
