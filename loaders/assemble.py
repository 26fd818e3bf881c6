"""The thread between the fetched bytes and the training loop: many batches at a time.

It asks for the runs of the chunks to come, as far ahead as memory allows; waits for those of the
next chunk; gathers its rows; and queues its batches. A consumer that finds the queue empty doesn't
only wait: it gathers the next chunk whose bytes are there, while the thread is at the one before.
"""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from loaders.attempts import Part
from loaders.blocks import Rows
from loaders.fetch import WATCH_SECONDS, Fetcher
from loaders.gather import Batch, Batches
from loaders.memory import Memory
from loaders.schedule import Chunk, Plan, Run

# ns of time.perf_counter_ns: asked, arrived, assembled, queued (see `stats.TIMELINE`).
Marks = tuple[int, int, int, int]
# A finished batch, where the epoch stands once it has been delivered, its tokens, and when it came
# to be. A plain tuple: of everything here this is made most often.
Ready = tuple[Batch, int, int, Marks]

_ASK_AT_ONCE = 8
# What leaving the program waits for a chunk that is being made: milliseconds of work, on a machine
# that has time for it.
_EXIT_SECONDS = 5.0


@dataclass(eq=False)
class _Planned:
    chunk: Chunk
    missing: int = 0
    asked: int = 0
    arrived: int = 0
    ready: list[Ready] | None = None  # None: not gathered yet


class Assembler:
    """Makes the batches of one iteration, in a thread of its own.

    Args:
        plan: how the span is read; `chunks` its cut, `memory` what they were made for.
        parts: the reads that fill rows with a run.
        fetcher: made with `fail=` this object's `fail`; see `start`.
        gather: one for each of the two threads that make batches of a chunk.
        ready_batches: how many finished batches may wait.
    """

    def __init__(
        self,
        plan: Plan,
        chunks: Iterator[Chunk],
        memory: Memory,
        parts: Callable[[Run, Rows], Sequence[Part]],
        gather: Callable[[], Batches],
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
        self._gather, self._consumers_gather = gather(), gather()
        self._ready_batches = ready_batches
        self._changed = threading.Condition()
        # In order: planned, then claimed by whoever gathers it, then its batches are in `ready`.
        self._planned: deque[_Planned] = deque()
        self._claimed: deque[_Planned] = deque()
        self._closed_runs: deque[tuple[int, ...]] = deque()
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
        _open_assemblers.add(self)

    # The consumer's side.

    def wait(self, timeout: float | None) -> Ready | None:
        """The next batch, None at the end. Raises what went wrong, TimeoutError after `timeout`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                if self.ready:
                    return self.ready.popleft()
                if self._error is not None:
                    raise self._error
                if self._finished or self._closed:
                    return None
                mine = self._claim()
                if mine is None:
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError
                    self._changed.wait(left)
                    continue
            self._make(mine, self._consumers_gather)

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
        return self._finished and self._outstanding == 0 and not self._thread.is_alive()

    def close(self, wait: float = 0.0) -> None:
        """Ends the threads; waits for them `wait` seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._fetcher is not None:
            self._fetcher.close(wait)
            if wait:
                self.join(wait)

    def join(self, seconds: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    # Both threads'.

    def _claim(self) -> _Planned | None:
        """Under the lock: the next chunk, if its bytes are there, is whoever's that asks."""
        if self._closed or not self._planned or self._planned[0].missing:
            return None
        planned = self._planned.popleft()
        self._claimed.append(planned)
        return planned

    def _make(self, planned: _Planned, gather: Batches) -> None:
        """The batches of a claimed chunk; queues them when those before are."""
        batches, tokens = gather.batches(planned.chunk, self.memory)
        assembled = time.perf_counter_ns()
        marks = (planned.asked, planned.arrived, assembled, time.perf_counter_ns())
        first = planned.chunk.step + 1
        positions = map(self.span.position_after, range(first, first + len(batches)))
        ready = list(zip(batches, positions, tokens, repeat(marks), strict=False))
        with self._changed:
            planned.ready = ready
            self._settle()

    @property
    def _nothing_left(self) -> bool:
        return self._all_planned and not self._planned

    def _settle(self) -> None:
        """Under the lock: queues the batches of chunks that are made, in order."""
        while self._claimed and self._claimed[0].ready is not None:
            made = self._claimed.popleft()
            self.ready.extend(made.ready or ())
            made.ready = []  # batches are held by who takes them alone
            # Only now: a run that is closed here is used by the chunks before as well.
            self._closed_runs.append(made.chunk.closed)
        self._finished = self._nothing_left and not self._claimed
        self._changed.notify_all()

    # The thread's side.

    def _run(self) -> None:
        try:
            while self._advance_until(self._has_work):
                with self._changed:
                    if self._nothing_left:
                        self._settle()
                        return
                    mine = self._claim() if self._has_room() else None
                if mine is not None:
                    self.room_below = -1
                    self._make(mine, self._gather)
        except BaseException as error:
            self.fail(error)
        finally:
            self.fetcher.close()

    def _has_work(self) -> bool:
        """The next chunk can be gathered, or there is none."""
        with self._changed:
            if not self._planned:
                return self._all_planned
            return not self._planned[0].missing and self._has_room()

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
        while self._closed_runs:
            self.memory.forget(self._closed_runs.popleft())
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
        # Once all runs have been asked for, planning far ahead would only take memory.
        return (len(self._planned) < 2 or not self._plan.complete) and self._plan_one()

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

    def _has_room(self) -> bool:
        # Set before the look at the queue: a consumer that takes a batch after it sees the wish.
        steps = self._planned[0].chunk.steps if self._planned else 0
        self.room_below = max(0, self._ready_batches - steps)
        making = sum(planned.chunk.steps for planned in self._claimed)
        return len(self.ready) + making <= self.room_below

    def _advance_until(self, true: Callable[[], bool]) -> bool:
        """Asks for what is to come while `true` is not yet so. False: closed or failed instead."""
        while self._error is None and not self._closed:
            # A few at a time: what can be gathered must not wait until all is planned.
            asked = sum(self._ask() for _ in range(_ASK_AT_ONCE))
            if true():
                return True
            if asked:
                continue
            with self._changed:
                if not (true() or self._closed or self._error):
                    self._changed.wait(WATCH_SECONDS)
            self.fetcher.watch()
        return False


_open_assemblers: weakref.WeakSet[Assembler] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: a daemon thread that is in native code when the interpreter is taken down is unwound
    through it, which aborts the process ("terminate called without an active exception").
    """
    assemblers = list(_open_assemblers)
    for assembler in assemblers:
        assembler.close()
    until = time.monotonic() + _EXIT_SECONDS
    for assembler in assemblers:
        assembler.join(max(0.0, until - time.monotonic()))


atexit.register(_close_all)
os.register_at_fork(after_in_child=_open_assemblers.clear)
