"""The thread between the fetched bytes and the training loop: many batches at a time.

It asks for the runs of the chunks to come, as far ahead as memory allows; waits for those of the
next chunk; gathers its rows; widens them to int64; and hands out views, one for each step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from loaders.attempts import Part
from loaders.blocks import Rows
from loaders.fetch import WATCH_SECONDS, Fetcher
from loaders.gather import Batches
from loaders.memory import Memory
from loaders.schedule import Chunk, Plan, Run


class Ready(NamedTuple):
    """A finished batch: `position` is where the epoch stands once it has been delivered."""

    batch: dict[str, torch.Tensor]
    position: int
    tokens: int
    marks: tuple[int, int, int, int]  # ns: asked, arrived, assembled, queued


@dataclass(eq=False)
class _Planned:
    chunk: Chunk
    missing: int = 0
    asked: int = 0
    arrived: int = 0


class Assembler:
    """Makes the batches of one iteration, in a thread of its own.

    Args:
        plan: how the span is read; `chunks` its cut, `memory` what they were made for.
        parts: the reads that fill rows with a run.
        fetcher: made with `fail=` this object's `fail`; see `start`.
        gather: makes the batches of a chunk whose runs are all in `memory`.
        ready_batches: how many finished batches may wait.
    """

    def __init__(
        self,
        plan: Plan,
        chunks: Iterator[Chunk],
        memory: Memory,
        parts: Callable[[Run, Rows], Sequence[Part]],
        gather: Batches,
        ready_batches: int,
    ) -> None:
        self.span = plan.span
        self.ready: deque[Ready] = deque()
        # The consumer calls make_room() when it leaves no more than this many ready batches.
        self.room_below = -1
        self.memory = memory
        self._plan = plan
        self._chunks = chunks
        self._parts = parts
        self._gather = gather
        self._ready_batches = ready_batches
        self._changed = threading.Condition()
        self._planned: deque[_Planned] = deque()
        self._unasked: deque[tuple[_Planned, Run]] = deque()
        self._outstanding = 0
        self._all_planned = False
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._fetcher: Fetcher | None = None
        self._thread = threading.Thread(target=self._run, name="stoker-assemble", daemon=True)

    def start(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._thread.start()

    # The consumer's side.

    def wait(self, timeout: float | None) -> Ready | None:
        """The next batch, None at the end. Raises what went wrong, TimeoutError after `timeout`."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self.ready:
                if self._error is not None:
                    raise self._error
                if self._finished or self._closed:
                    return None
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)
            return self.ready.popleft()

    def make_room(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def fetcher(self) -> Fetcher:
        assert self._fetcher is not None
        return self._fetcher

    @property
    def finished(self) -> bool:
        """Every batch was made."""
        return self._finished

    def standing(self) -> dict[str, int]:
        """Threads, ready batches and memory in use: part of the loader's `stats()`."""
        tokens, mask = self.memory.rows.tokens, self.memory.rows.mask
        size = tokens.nbytes + (0 if mask is None else mask.nbytes)
        return {
            "threads": self.fetcher.threads + self._thread.is_alive(),
            "batches_ready": len(self.ready),
            "buffer_bytes": size,
            "buffer_used_bytes": size // len(tokens) * self.memory.used,
        }

    @property
    def memory_is_quiet(self) -> bool:
        """Nothing writes into `memory` any more: another iteration may use it."""
        return self._finished and self._outstanding == 0

    def close(self, wait: float = 0.0) -> None:
        """Ends the threads; waits for them `wait` seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._fetcher is not None:
            self._fetcher.close(wait)
            if wait and self._thread is not threading.current_thread():
                self._thread.join(wait)

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    # The thread's side.

    def _run(self) -> None:
        try:
            while (planned := self._next()) is not None:
                while self._ask():
                    pass
                if not self._advance_until(lambda: not planned.missing):
                    return
                if not self._advance_until(lambda: self._has_room(planned.chunk.steps)):
                    return
                self.room_below = -1
                self._deliver(planned)
            with self._changed:
                self._finished = True
                self._changed.notify_all()
        except BaseException as error:
            self.fail(error)
        finally:
            self.fetcher.close()

    def _next(self) -> _Planned | None:
        if not self._planned and not self._plan_one():
            return None
        return self._planned.popleft()

    def _plan_one(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._all_planned = True
            return False
        now = time.perf_counter_ns()
        planned = _Planned(chunk, missing=len(chunk.opened), asked=now, arrived=now)
        self._planned.append(planned)
        self._unasked.extend((planned, run) for run in chunk.opened)
        return True

    def _ask(self) -> bool:
        """Asks for one more run or plans one more chunk. False: enough is under way, or no room."""
        if self._unasked:
            planned, run = self._unasked[0]
            rows = self.memory.place(run)
            if rows is None:
                return False
            self._unasked.popleft()
            self._submit(planned, run, rows)
            return True
        if self._all_planned or self.fetcher.backlog >= 2 * self.fetcher.most_threads:
            return False
        # Once all runs have been asked for, planning ahead would only take memory.
        return (not self._planned or not self._plan.complete) and self._plan_one()

    def _submit(self, planned: _Planned, run: Run, rows: Rows) -> None:
        parts = self._parts(run, rows)
        with self._changed:
            planned.missing += len(parts) - 1
            self._outstanding += len(parts)
        left = [len(parts)]
        for part in parts:
            self.fetcher.submit(part, partial(self._landed, planned, run, left))

    def _landed(self, planned: _Planned, run: Run, left: list[int]) -> None:
        """Called by a fetch thread: a part of a run has been verified and put in place."""
        with self._changed:
            self._outstanding -= 1
            left[0] -= 1
            if not left[0]:
                self.memory.landed(run)
            planned.missing -= 1
            if not planned.missing:
                planned.arrived = time.perf_counter_ns()
            self._changed.notify_all()

    def _has_room(self, steps: int) -> bool:
        # Set before the look at the queue: a consumer that takes a batch after it sees the wish.
        self.room_below = max(0, self._ready_batches - steps)
        return len(self.ready) <= self.room_below

    def _advance_until(self, true: Callable[[], bool]) -> bool:
        """Asks for what is to come while `true` is not yet so. False: closed or failed instead."""
        while self._error is None and not self._closed:
            if true():
                return True
            if self._ask():
                continue
            with self._changed:
                if not (true() or self._closed or self._error):
                    self._changed.wait(WATCH_SECONDS)
            self.fetcher.watch()
        return False

    def _deliver(self, planned: _Planned) -> None:
        chunk, span = planned.chunk, self.span
        batches = self._gather.batches(chunk, self.memory)
        self.memory.forget(chunk.closed)
        assembled = time.perf_counter_ns()
        marks = (planned.asked, planned.arrived, assembled, time.perf_counter_ns())
        first = span.position_after(chunk.step)
        ready = [
            Ready(
                batch,
                min(first + number * span.global_batch, span.order.samples),
                tokens,
                marks,
            )
            for number, (batch, tokens) in enumerate(batches, 1)
        ]
        with self._changed:
            self.ready.extend(ready)
            self._changed.notify_all()
