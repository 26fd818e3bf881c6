"""Documents in, shards out: cut before the first document that doesn't fit any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.behind import Behind
from pipelines.encode import frame
from pipelines.plan import Unit
from pipelines.rows import Rows
from shards.format import Tokens, shard_path
from shards.pages import Pages
from shards.receipt import ShardRecord
from shards.store import Store
from shards.writer import build_shard

TokenType: TypeAlias = np.dtype[np.uint16] | np.dtype[np.uint32]


# Of this process.
_pages = Pages()


@dataclass(frozen=True)
class Form:
    """What the shards of a job have in common.

    Attributes:
        shard_bytes: token bytes a shard holds at most, unless one document is longer.
        begin_id, end_id: written before and after each document; None: none is.
    """

    plan: str
    dtype: TokenType
    shard_bytes: int
    begin_id: int | None
    end_id: int | None

    @property
    def around(self) -> int:
        """Tokens written around each document."""
        return (self.begin_id is not None) + (self.end_id is not None)


class Shards:
    """The shards of a unit's split, one being filled while the one before it is written behind."""

    def __init__(
        self,
        store: Store,
        unit: Unit,
        form: Form,
        behind: Behind,
        split: str = "train",
        parts: Iterator[int] | None = None,
    ) -> None:
        """
        Args:
            parts: numbers of the shards in the unit, no other split's.
        """
        self._store, self._unit, self._behind, self._split = store, unit, behind, split
        self._form, self._parts = form, parts or count()
        self._limit = max(1, form.shard_bytes // form.dtype.itemsize)
        self._memory: pa.Buffer | None = None
        self._ends: list[npt.NDArray[np.int64]] = []
        self._columns: list[pa.RecordBatch] = []
        self._held = 0
        self._written: list[Future[ShardRecord]] = []
        self.tokens = 0

    def add(self, rows: Rows) -> None:
        """Takes documents; each gets its begin and end token here."""
        ended = rows.offsets + np.arange(len(rows.offsets), dtype=np.int64) * self._form.around
        first, documents = 0, len(rows)
        while first < documents:
            room = ended[first] + self._limit - self._held
            last = int(np.searchsorted(ended, room, side="right")) - 1
            if last > first:
                self._take(rows, first, last)
                first = last
            elif self._held:
                self.flush()
            else:
                # Longer than a shard may be: a shard, and for once a buffer, of its own.
                size = int(ended[first + 1] - ended[first]) * self._form.dtype.itemsize
                self._memory = pa.allocate_buffer(size)
                self._take(rows, first, first + 1)
                self.flush()
                first += 1

    def _take(self, rows: Rows, first: int, last: int) -> None:
        if self._memory is None:
            self._memory = _pages.take(self._limit * self._form.dtype.itemsize)
        offsets, form = rows.offsets[first : last + 1], self._form
        stop = self._held + int(offsets[-1] - offsets[0]) + (last - first) * form.around
        into = _tokens(self._memory, form.dtype)[self._held : stop]
        framed = frame(offsets, rows.ids, into, begin_id=form.begin_id, end_id=form.end_id)
        self._ends.append(framed[1:] + self._held)
        if rows.columns is not None:
            self._columns.append(rows.columns.slice(first, last - first))
        self._held = stop

    def flush(self) -> None:
        """Hands what is held over as the next shard; nothing held, nothing written."""
        if self._memory is None or not self._held:
            return
        offsets = np.concatenate([np.zeros(1, np.int64), *self._ends])
        columns = pa.concat_batches(self._columns) if self._columns else None
        work = self._writing(next(self._parts), offsets, self._memory, columns)
        self._written.append(self._behind.hand(work))
        self.tokens += self._held
        self._memory, self._ends, self._columns, self._held = None, [], [], 0

    def _writing(
        self,
        part: int,
        offsets: npt.NDArray[np.int64],
        memory: pa.Buffer,
        columns: pa.RecordBatch | None,
    ) -> Callable[[], ShardRecord]:
        def write() -> ShardRecord:
            kept = {} if columns is None else dict(zip(columns.schema.names, columns, strict=True))
            tokens = _tokens(memory, self._form.dtype)[: offsets[-1]]
            built = build_shard(offsets, tokens, columns=kept, pages=_pages)
            plan, unit = self._form.plan, self._unit
            self._store.write(shard_path(plan, unit.number, part), memoryview(built.data))
            if len(tokens) <= self._limit:
                _pages.give(memory)
                _pages.give(built.data)
            return ShardRecord.of(
                plan, unit.number, part, built, source=unit.source, split=self._split
            )

        return write

    def records(self) -> tuple[ShardRecord, ...]:
        """Waits for the shards handed over; raises what kept one from being written."""
        return tuple(written.result() for written in self._written)


def _tokens(memory: pa.Buffer, dtype: TokenType) -> Tokens:
    tokens: Tokens = np.frombuffer(memory, dtype)  # type: ignore[assignment]  # a union of dtypes
    return tokens
