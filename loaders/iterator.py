"""One iteration of a loader: memory, threads and order put together, and taken apart at its end."""

import logging
import os
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from loaders.assemble import Assembler, Marks, Ready
from loaders.cache import DiskCache
from loaders.collate import gather_of
from loaders.dataset import TokenDataset
from loaders.device import AHEAD, Copies
from loaders.fetch import Fetcher
from loaders.memory import Arena, Memory, Resident
from loaders.parts import AnyOrder
from loaders.schedule import Plan, ResidentPlan, Span, StreamingPlan, chunks
from loaders.slabs import Slabs
from loaders.state import Progress
from loaders.stats import Stats
from shards.errors import StokerError

# Rows assembled in one go, as bytes of int64 input_ids: what a chunk costs in Python and in waking
# threads is spread over them. (Measured with batches of 128 KiB: 1 MiB 350 Mtok/s, 2 MiB 524,
# 4 MiB 665, 8 MiB 676.)
_CHUNK_BYTES = 4 << 20
_RESIDENT_BYTES = 512 << 20
_END_SECONDS = 1.0

_log = logging.getLogger(__name__)


class BatchTimeout(StokerError, RuntimeError):
    """No batch came within the loader's `timeout`. (A RuntimeError, as torch's own.)"""


@dataclass(frozen=True)
class Budget:
    """How much of a split is held at once: all of it (`slots` is None), or `slots` blocks."""

    slots: int | None
    slot_samples: int
    open_runs: int  # blocks that this rank's lanes hold open

    @classmethod
    def of(
        cls, dataset: TokenDataset, order: AnyOrder, world_size: int, batch: int, limit: int | None
    ) -> "Budget":
        """From `prefetch_bytes`; None: 512 MiB, or what this rank's open blocks need if more.

        Raises:
            ValueError: too few bytes for the blocks that have to be in memory at once.
        """
        slot_bytes = order.block * dataset.row_bytes
        open_runs = StreamingPlan.open_runs(order, world_size)
        opened = StreamingPlan.runs_for_a_batch(order, world_size, batch)
        needed = open_runs + opened
        if limit is None:
            # A quarter more than is open, to read ahead: lanes change blocks one after the other.
            limit = max(_RESIDENT_BYTES, (open_runs * 5 // 4 + 2 * batch + 32) * slot_bytes)
        if order.samples * dataset.row_bytes <= limit:
            return cls(None, dataset.run_samples, open_runs)
        if limit // slot_bytes < needed:
            raise ValueError(
                f"prefetch_bytes={limit} is too small: this rank holds {open_runs} blocks of "
                f"{slot_bytes} bytes open and a batch of {batch} may open {opened} more: give at "
                f"least {needed * slot_bytes}, or fewer lanes= (now {order.lanes})"
            )
        return cls(limit // slot_bytes, order.block, open_runs)


@dataclass
class Kept:
    """What outlives an iteration: a resident split, an arena nobody writes to, batch memory."""

    slabs: Slabs
    resident: Resident | None = None
    arena: Arena | None = None
    process: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class Settings:
    """How to iterate, as opposed to over what."""

    budget: Budget
    threads: int  # 0: as many as suit the source
    ready_batches: int | None  # None: two chunks
    timeout: float  # seconds, 0: none
    stall_warning: float  # seconds, 0: none
    cache: DiskCache | None
    copies: Copies | None = None  # to a device


class TokenIterator:
    """Yields one epoch's batches: dicts of int64 tensors [batch_size, seq_len].

    Its threads end when it is exhausted, closed or garbage-collected: none of them refers to it.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        span: Span,
        settings: Settings,
        kept: Kept,
        progress: Progress,
        stats: Stats,
    ) -> None:
        self._began = time.perf_counter_ns()
        self._progress, self._token = progress, object()
        self._stats, self._kept = stats, kept
        self._timeout = settings.timeout or None
        self._stall_warning = settings.stall_warning or None
        self._copies = settings.copies
        self._make = partial(_assembler, dataset, settings=settings, kept=kept, stats=stats)
        self._begin(span)

    def _begin(self, span: Span) -> None:
        self.span = span
        self._steps, self._step = span.steps, 0
        self._over = self._released = False
        self._assembler = self._make(span)
        self._ready: deque[Ready] = self._assembler.ready
        self._copied: deque[tuple[Any, int, int, Marks]] = deque()
        self._finalizer = weakref.finalize(self, self._assembler.close)

    def go_to(self, span: Span) -> bool:
        """Goes over another stretch, if no batch was taken yet. Whether it does."""
        if self._step or self._over:
            return False
        self.close()
        self.release()
        self._begin(span)
        return True

    def __iter__(self) -> "TokenIterator":
        return self

    def __len__(self) -> int:
        """Batches of the whole iteration."""
        return self._steps

    def __next__(self) -> dict[str, torch.Tensor]:
        began = time.perf_counter_ns()
        batch, position, tokens, marks = (
            self._take() if self._copies is None else self._take_copied(self._copies)
        )
        self._step = step = self._step + 1
        self._progress.delivered(self._token, position, last=step == self._steps)
        self._stats.delivered(marks, tokens, began)
        if step == 1:
            self._stats.first_batch_ns = time.perf_counter_ns() - self._began
        return batch

    def _take(self) -> Ready:
        try:
            ready = self._ready.popleft()
        except IndexError:
            ready = self._wait()
        assembler = self._assembler
        if len(self._ready) <= assembler.room_below:
            assembler.make_room()
        return ready

    def _take_copied(self, copies: Copies) -> Ready:
        """Starts the copies of the next batches, as far as they are ready, and takes the first."""
        copied = self._copied
        while len(copied) <= AHEAD and (self._ready or not copied):
            batch, position, tokens, marks = self._take()
            copied.append((copies.start(batch), position, tokens, marks))
        started, position, tokens, marks = copied.popleft()
        return copies.take(started), position, tokens, marks

    def move(self, token: object) -> None:
        """From now on it moves the progress. `token` is from `progress.restart()`: the newest
        iterator alone does.
        """
        self._token = token

    def release(self) -> bool:
        """Gives its memory to the next iteration, if every batch was made. Whether it did."""
        memory = self._assembler.memory
        if self._released or not self._assembler.memory_is_quiet:
            return self._released
        if isinstance(memory, Arena):
            self._kept.arena = memory
        self._released = True
        return True

    @property
    def assembler(self) -> Assembler:
        return self._assembler

    def close(self) -> None:
        """Ends the threads; the iterator is finished."""
        self._over = True
        self._finalizer.detach()
        self._assembler.close(_END_SECONDS)

    def _wait(self) -> Ready:
        if self._over:
            raise StopIteration
        try:
            ready = self._wait_watched()
        except TimeoutError:
            waiting_for = self._assembler.fetcher.waiting_for()
            self.close()
            raise BatchTimeout(
                f"no batch within timeout={self._timeout:g} s: {waiting_for}"
            ) from None
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                self.close()
            raise
        if ready is None:
            self._end()
            raise StopIteration
        return ready

    def _wait_watched(self) -> Ready | None:
        """As the assembler's `wait`, with a line in the log when it takes `stall_warning`."""
        warning, timeout = self._stall_warning, self._timeout
        if warning is None or (timeout is not None and timeout <= warning):
            return self._assembler.wait(timeout)
        try:
            return self._assembler.wait(warning)
        except TimeoutError:
            _log.warning(
                "no batch for %g s (step %d): %s",
                warning,
                self._step + 1,
                self._assembler.fetcher.waiting_for(),
            )
        return self._assembler.wait(None if timeout is None else timeout - warning)

    def _end(self) -> None:
        finished = self._assembler.finished
        self.close()
        if finished:
            self._progress.exhausted(self._token)
        self.release()


def _assembler(
    dataset: TokenDataset, span: Span, settings: Settings, kept: Kept, stats: Stats
) -> Assembler:
    budget = settings.budget
    memory, plan = _memory(dataset, span, budget, kept)
    most_rows = max(span.batch_size, _CHUNK_BYTES // (8 * dataset.seq_len))
    if settings.ready_batches is not None:
        most_rows = min(most_rows, max(1, settings.ready_batches // 2) * span.batch_size)
    most_opened = (budget.slots - budget.open_runs) if budget.slots else dataset.samples
    assembler = Assembler(
        plan,
        chunks(plan, most_rows, most_opened),
        memory,
        dataset.parts,
        partial(gather_of, dataset.form, span, kept.slabs, most_rows),
        settings.ready_batches or 2 * max(1, most_rows // span.batch_size),
    )
    source = dataset.source
    assembler.start(
        Fetcher(
            source,
            settings.threads or source.threads,
            stats.fetch,
            assembler.fail,
            cache=settings.cache,
        )
    )
    return assembler


def _memory(dataset: TokenDataset, span: Span, budget: Budget, kept: Kept) -> tuple[Memory, Plan]:
    """A resident split grows over iterations; an arena has one user at a time."""
    if budget.slots is None:
        if kept.resident is None:
            rows = dataset.rows(span.order.samples)
            kept.resident = Resident(rows, budget.slot_samples)
        resident = kept.resident
        return resident, ResidentPlan(span, resident.run_samples, resident.held)
    arena, kept.arena = kept.arena, None
    if arena is None:
        rows = dataset.rows(budget.slots * budget.slot_samples)
        arena = Arena(rows, budget.slots, budget.slot_samples)
    else:
        arena.forget_all()
    return arena, StreamingPlan(span)
