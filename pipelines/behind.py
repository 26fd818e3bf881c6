"""Work that is done behind the encoding: shards are built and written while the next is filled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Behind:
    """One thread that does what it is handed, in that order.

    `hand` waits until what was handed over before is done: so at most one shard is being written
    while one is being filled, whatever the disk does.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "behind")
        self._last: Future[object] | None = None

    def hand(self, work: Callable[[], T]) -> Future[T]:
        """Does `work` on the thread, once the work before it is over, failed or not."""
        if self._last is not None:
            self._last.exception()
        return self.add(work)

    def add(self, work: Callable[[], T]) -> Future[T]:
        """As `hand`, without waiting: for work that holds next to no memory."""
        future = self._pool.submit(work)
        self._last = future  # type: ignore[assignment]
        return future

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
