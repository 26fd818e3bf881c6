"""Documents in, shards out: cut before the first document that doesn't fit any more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.behind import Behind
from pipelines.encode import append_end_token
from pipelines.plan import Unit
from shards.format import shard_path
from shards.receipt import ShardRecord
from shards.store import Store
from shards.writer import build_shard

TokenType: TypeAlias = np.dtype[np.uint16] | np.dtype[np.uint32]
Buffer: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class Shards:
    """The shards of a unit, one being filled while the one before it is written behind."""

    def __init__(
        self,
        store: Store,
        plan: str,
        unit: Unit,
        dtype: TokenType,
        shard_bytes: int,
        end_id: int,
        behind: Behind,
    ) -> None:
        """
        Args:
            shard_bytes: token bytes a shard holds at most, unless one document is longer.
            end_id: written after each document.
        """
        self._store, self._plan, self._unit, self._behind = store, plan, unit, behind
        self._dtype, self._end_id = dtype, end_id
        self._limit = max(1, shard_bytes // dtype.itemsize)
        self._buffer = _take_buffer(self._limit, dtype)
        self._ends: list[npt.NDArray[np.int64]] = []
        self._held = 0
        self._written: list[Future[ShardRecord]] = []
        self.tokens = 0

    def add(self, offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.uint32]) -> None:
        """Takes the documents `ids[offsets[i] : offsets[i + 1]]`; each gets its end token here."""
        ended = offsets + np.arange(len(offsets), dtype=np.int64)
        first, documents = 0, len(offsets) - 1
        while first < documents:
            room = ended[first] + self._limit - self._held
            last = int(np.searchsorted(ended, room, side="right")) - 1
            if last > first:
                self._take(offsets[first : last + 1], ids)
                first = last
            elif self._held:
                self.flush()
            else:
                # Longer than a shard may be: a shard, and for once a buffer, of its own.
                self._buffer = np.empty(int(ended[first + 1] - ended[first]), self._dtype)
                self._take(offsets[first : first + 2], ids)
                self.flush()
                first += 1

    def _take(self, offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.uint32]) -> None:
        stop = self._held + int(offsets[-1] - offsets[0]) + len(offsets) - 1
        ended = append_end_token(offsets, ids, self._end_id, self._buffer[self._held : stop])
        self._ends.append(ended[1:] + self._held)
        self._held = stop

    def flush(self) -> None:
        """Hands what is held over as the next shard; nothing held, nothing written."""
        if not self._held:
            return
        offsets = np.concatenate([np.zeros(1, np.int64), *self._ends])
        part = len(self._written)
        self._written.append(self._behind.hand(self._writing(part, offsets, self._buffer)))
        self.tokens += self._held
        self._buffer = _take_buffer(self._limit, self._dtype)
        self._ends, self._held = [], 0

    def _writing(
        self, part: int, offsets: npt.NDArray[np.int64], buffer: Buffer
    ) -> Callable[[], ShardRecord]:
        def write() -> ShardRecord:
            built = build_shard(offsets, buffer[: offsets[-1]])
            if len(buffer) == self._limit:
                _free.append(buffer)
            path = shard_path(self._plan, self._unit.number, part)
            self._store.write(path, memoryview(built.data))
            source = self._unit.source
            return ShardRecord.of(self._plan, self._unit.number, part, built, source=source)

        return write

    def records(self) -> tuple[ShardRecord, ...]:
        """Waits for the shards handed over; raises what kept one from being written."""
        return tuple(written.result() for written in self._written)


# Of this process: fresh pages cost more than filling them.
_free: list[Buffer] = []


def _take_buffer(size: int, dtype: TokenType) -> Buffer:
    """For `size` tokens; one that is free again if there is one of this size."""
    while _free:
        buffer = _free.pop()
        if len(buffer) == size and buffer.dtype == dtype:
            return buffer
    fresh: Buffer = np.empty(size, dtype)
    return fresh
