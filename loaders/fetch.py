"""Threads that bring bytes: bounded, retried, verified, and never waited for when they are stuck.

A native S3 read cannot be cancelled (a stalled one was seen to last 129 s), so a read past its
deadline is *abandoned*: its daemon thread is written off, the read goes to another thread, and what
the first one may still bring is thrown away. Every thread reads into a buffer of its own and the
bytes are put in place only after the read has been accepted, so a late thread can't spoil anything.
"""

import atexit
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loaders.source import Read, Scratch, Source, TransientError
from loaders.stats import FetchCounts
from shards.errors import CorruptShard, StoreError


@dataclass(frozen=True)
class Patience:
    """How long to put up with a store. Seconds."""

    deadline: float = 10.0  # of one read; S3's slow ones take 1-2 s for a MiB
    total: float = 21.0  # a read that kept failing for this long fails: a server may restart in 20
    first_pause: float = 0.1  # doubled from attempt to attempt, with jitter
    longest_pause: float = 2.0
    most_abandoned: int = 64  # threads written off at once


PATIENCE = Patience()


class Part(Protocol):
    """Something to bring: its reads, and what to do with their bytes."""

    @property
    def reads(self) -> Sequence[Read]: ...

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        """Verifies the bytes of `reads` and puts them in place. CorruptShard: read them again."""
        ...


@dataclass(eq=False)
class _Job:
    part: Part
    done: Callable[[], None]
    missing: int
    data: list[memoryview | bytes]
    generation: int = 0  # raised when everything is read again: older reads no longer count


@dataclass(eq=False)
class _Request:
    """One read of a job, over all its attempts."""

    job: _Job
    number: int
    read: Read
    generation: int = 0
    attempts: int = 0
    first_began: float = 0.0
    began: float = 0.0
    not_before: float = 0.0
    last_trouble: str = ""


class Fetcher:
    """Brings parts with at most `threads` reads at once.

    Args:
        fail: called once, from any thread, with what could not be cured. Nothing is done after it.
    """

    def __init__(
        self,
        source: Source,
        threads: int,
        counts: FetchCounts,
        fail: Callable[[BaseException], None],
        patience: Patience | None = None,
    ) -> None:
        self._source = source
        self._most_threads = threads
        self._counts = counts
        self._fail_callback = fail
        self._patience = patience or PATIENCE
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._reading: dict[int, _Request] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._idle = 0
        self._abandoned = 0
        self._started = 0
        self._closed = False
        _open_fetchers.add(self)

    @property
    def backlog(self) -> int:
        """Reads that no thread has taken up yet."""
        return len(self._queue)

    @property
    def most_threads(self) -> int:
        return self._most_threads

    @property
    def threads(self) -> int:
        return len(self._threads)

    def submit(self, part: Part, done: Callable[[], None]) -> None:
        """Brings `part`, then calls `done` from a fetch thread."""
        reads = part.reads
        job = _Job(part, done, len(reads), [b""] * len(reads))
        with self._changed:
            self._queue.extend(_Request(job, number, read) for number, read in enumerate(reads))
            self._start_threads()
            self._changed.notify(len(reads))

    def watch(self) -> None:
        """Abandons reads past their deadline. Whoever waits calls it a few times a second."""
        now = time.monotonic()
        with self._changed:
            late = [
                (thread, request)
                for thread, request in self._reading.items()
                if now - request.began > self._patience.deadline
            ]
            for thread, _ in late:
                self._abandon(thread)
            stuck = self._abandoned
        for _, request in late:
            self._counts.add(timeouts=1)
            self._retry(request, f"no answer within {self._patience.deadline:g} s")
        if stuck > self._patience.most_abandoned:
            self._fail(StoreError(f"{self._source.uri}: {stuck} reads are stuck without an answer"))

    def waiting_for(self) -> str:
        """In words, for messages: how many reads are under way, and the oldest of them."""
        with self._changed:
            pending = [*self._reading.values(), *self._queue]
            if not pending:
                return "no read is under way"
            oldest = min(pending, key=lambda one: one.first_began or float("inf"))
        since = time.monotonic() - oldest.first_began if oldest.first_began else 0.0
        trouble = f"; last trouble: {oldest.last_trouble}" if oldest.last_trouble else ""
        return (
            f"{len(pending)} reads are under way, the oldest {self._name(oldest.read)}, "
            f"attempt {max(oldest.attempts, 1)}, for {since:.1f} s{trouble}"
        )

    def close(self, wait: float = 0.0) -> None:
        """Ends the threads. Waits for those not stuck in a read, `wait` seconds at most."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            threads = list(self._threads.values())
            self._changed.notify_all()
        until = time.monotonic() + wait
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _start_threads(self) -> None:
        """Under the lock: enough threads for what is queued."""
        wanted = min(len(self._queue) - self._idle, self._most_threads - len(self._threads))
        for _ in range(max(0, wanted)):
            self._started += 1
            name = f"stoker-fetch-{self._started}"
            # Daemons: leaving the program never waits for a read that is stuck.
            thread = threading.Thread(target=self._run, args=(self._started,), name=name)
            thread.daemon = True
            self._threads[self._started] = thread
            thread.start()

    def _run(self, number: int) -> None:
        scratch = Scratch()
        while (request := self._take(number)) is not None:
            try:
                data = self._source.read(request.read, scratch)
                failure: BaseException | None = None
            except BaseException as error:  # a Rust panic is a BaseException
                data, failure = memoryview(b""), error
            with self._changed:
                if self._reading.pop(number, None) is not request:
                    self._abandoned -= 1
                    return
            try:
                self._accept(request, data) if failure is None else self._refuse(request, failure)
            except BaseException as error:
                self._fail(error)

    def _take(self, number: int) -> _Request | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                request = next((one for one in self._queue if one.not_before <= now), None)
                if request is not None:
                    self._queue.remove(request)
                    request.attempts += 1
                    request.began = now
                    request.first_began = request.first_began or now
                    self._reading[number] = request
                    return request
                pause = min((one.not_before - now for one in self._queue), default=None)
                self._idle += 1
                self._changed.wait(pause)
                self._idle -= 1
            self._threads.pop(number, None)
            return None

    def _accept(self, request: _Request, data: memoryview) -> None:
        job = request.job
        self._counts.add(requests=1, bytes_read=len(data))
        # The job's last read may finish in another thread, and this one's buffer is used again.
        kept = data if len(job.data) == 1 else bytes(data)
        with self._changed:
            if request.generation != job.generation:
                return
            job.data[request.number] = kept
            job.missing -= 1
            if job.missing:
                return
        try:
            job.part.land(job.data)
        except CorruptShard as error:
            self._read_again(job, error)
            return
        job.data = []
        job.done()

    def _refuse(self, request: _Request, error: BaseException) -> None:
        if isinstance(error, TransientError):
            self._retry(request, str(error))
        elif isinstance(error, CorruptShard):
            if request.generation == request.job.generation:
                self._read_again(request.job, error)
        else:
            self._fail(error)

    def _read_again(self, job: _Job, error: CorruptShard) -> None:
        """Bytes can be damaged on their way: once more, then it's the shard."""
        if job.generation:
            self._fail(error)
            return
        self._counts.add(corrupt_rereads=1)
        reads = job.part.reads
        with self._changed:
            job.generation, job.missing = 1, len(reads)
            # In front: what was asked for first is needed first.
            self._queue.extendleft(_Request(job, n, read, 1) for n, read in enumerate(reads))
            self._start_threads()
            self._changed.notify(len(reads))

    def _retry(self, request: _Request, trouble: str) -> None:
        patience, now = self._patience, time.monotonic()
        request.last_trouble = trouble
        if now - request.first_began > patience.total:
            self._fail(
                StoreError(
                    f"{self._name(request.read)} could not be read: {request.attempts} attempts "
                    f"in {now - request.first_began:.0f} s, the last one: {trouble}"
                )
            )
            return
        self._counts.add(retries=1)
        pause = min(patience.longest_pause, patience.first_pause * 2 ** (request.attempts - 1))
        request.not_before = now + pause * random.uniform(0.5, 1.0)
        with self._changed:
            self._queue.appendleft(request)
            self._start_threads()
            self._changed.notify()

    def _abandon(self, thread: int) -> None:
        """Under the lock: the thread is written off, the read is free to go to another."""
        del self._reading[thread]
        del self._threads[thread]
        self._abandoned += 1

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        self._fail_callback(error)

    def _name(self, read: Read) -> str:
        return f"{self._source.uri}/{read.key} bytes {read.start}-{read.stop}"


def bring(source: Source, parts: Sequence[Part]) -> None:
    """Brings `parts` side by side and returns when all have landed, or raises what went wrong."""
    changed = threading.Condition()
    missing, errors = len(parts), list[BaseException]()

    def landed() -> None:
        nonlocal missing
        with changed:
            missing -= 1
            changed.notify()

    def failed(error: BaseException) -> None:
        with changed:
            errors.append(error)
            changed.notify()

    fetcher = Fetcher(source, min(len(parts), source.threads), FetchCounts(), failed)
    try:
        for part in parts:
            fetcher.submit(part, landed)
        while missing and not errors:
            with changed:
                if missing and not errors:
                    changed.wait(0.25)
            fetcher.watch()
    finally:
        fetcher.close(wait=0.2)
    if errors:
        raise errors[0]


_open_fetchers: weakref.WeakSet[Fetcher] = weakref.WeakSet()


def _close_all() -> None:
    for fetcher in list(_open_fetchers):
        fetcher.close(wait=0.2)


atexit.register(_close_all)
os.register_at_fork(after_in_child=_open_fetchers.clear)
