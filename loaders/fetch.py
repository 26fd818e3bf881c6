"""Threads that bring bytes: bounded, retried, hedged, verified, and never waited for when stuck.

A native S3 read cannot be cancelled (a stalled one was seen to last 129 s), so a read past its
deadline is *abandoned*: its daemon thread is written off, the read goes to another thread, and what
the first one may still bring is thrown away. Every thread reads into a buffer of its own and the
bytes are put in place only after the read has been accepted, so a late thread can't spoil anything.
For the same reason a second attempt may go out while the first is only late (a *hedge*): whichever
comes first counts, the other one's thread is abandoned.
"""

import atexit
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from loaders.attempts import Attempt, Job, Part, Patience, Request, Standing
from loaders.cache import DiskCache
from loaders.hedge import Hedging
from loaders.source import Read, Scratch, Source, TransientError
from loaders.stats import FetchCounts
from shards.errors import CorruptShard, StoreError

# How often whoever waits looks after late reads.
WATCH_SECONDS = 0.1
# What leaving the program waits at most, for reads that aren't stuck: S3's usual ones need 0.1-0.2
# s, on a busy machine a few times that. One that has been under way for longer is stuck.
_EXIT_SECONDS = 1.0
_STUCK_SECONDS = 5.0
PATIENCE = Patience()


class Fetcher:
    """Brings parts with at most `threads` reads at once, hedges apart.

    Args:
        fail: called once, from any thread, with what could not be cured. Nothing is done after it.
        cache: where verified bytes are kept and looked for first.
    """

    def __init__(
        self,
        source: Source,
        threads: int,
        counts: FetchCounts,
        fail: Callable[[BaseException], None],
        patience: Patience | None = None,
        cache: DiskCache | None = None,
        hedging: Hedging | None = None,
    ) -> None:
        self._source = source
        self._most_threads = threads
        self._counts = counts
        self._tell = fail
        self._patience = patience or PATIENCE
        self._cache = cache
        self._hedging = hedging or Hedging()
        self._changed = threading.Condition()
        self._queue: deque[Attempt] = deque()
        self._at = Standing()
        self._inside: dict[int, float] = {}  # since when a thread has been in the source's code
        self._started = 0
        self._answered = False
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
        return len(self._at.threads)

    def submit(self, part: Part, done: Callable[[], None], *, first: bool = False) -> None:
        """Brings `part` and what follows it, then calls `done` from a fetch thread.

        first: before everything that is queued.
        """
        reads = part.reads
        job = Job(part, done, len(reads), [b""] * len(reads))
        attempts = [Attempt(Request(job, number, read)) for number, read in enumerate(reads)]
        self._enqueue(attempts, first=first)

    def watch(self) -> None:
        """Abandons reads past their deadline and sends second ones for those that are late.

        Whoever waits for the fetcher calls it every `WATCH_SECONDS`.
        """
        now, at = time.monotonic(), self._at
        expired, late = [], []
        with self._changed:
            for thread, attempt in list(at.reading.items()):
                request, seconds = attempt.request, now - attempt.began
                if seconds > self._deadline(attempt):
                    at.abandon(thread)
                    expired.append(attempt)
                elif request.live == 1 and not request.over and self._is_late(request, seconds):
                    request.live += 1
                    at.hedges += 1
                    late.append(Attempt(request, hedge=True))
            for thread, attempt in list(at.landing.items()):
                if now - attempt.began > 2 * self._deadline(attempt):
                    at.abandon(thread)
            stuck = at.abandoned
        for attempt in expired:
            self._counts.add(timeouts=1)
            self._troubled(attempt, f"no answer within {self._deadline(attempt):g} s")
        if late:
            self._counts.add(hedges=len(late))
            self._enqueue(late, first=True)
        # Each thread may be stuck once, and its successor; few threads a few times more.
        if stuck > max(self._patience.most_abandoned, 2 * self._most_threads):
            self._fail(StoreError(f"{self._source.uri}: {stuck} reads are stuck without an answer"))

    def waiting_for(self) -> str:
        """In words, for messages: how many reads are under way, and the oldest of them."""
        at = self._at
        with self._changed:
            pending = [*at.reading.values(), *at.landing.values(), *self._queue]
            requests = list({id(one.request): one.request for one in pending}.values())
            if not requests:
                return "no read is under way"
            oldest = min(requests, key=lambda one: one.first_began or float("inf"))
            landing = any(one.request is oldest for one in at.landing.values())
        since = time.monotonic() - oldest.first_began if oldest.first_began else 0.0
        landed = ", whose bytes are here and being verified" if landing else ""
        trouble = f"; last trouble: {oldest.last_trouble}" if oldest.last_trouble else ""
        return (
            f"{len(requests)} reads are under way, the oldest {self._name(oldest.read)}, "
            f"attempt {max(oldest.attempts, 1)}, for {since:.1f} s{landed}{trouble}"
        )

    def close(self, wait: float = 0.0) -> None:
        """Ends the threads. Waits for those not stuck in a read, `wait` seconds at most."""
        with self._changed:
            self._closed = True
            # Whoever is told of failures has this fetcher: together they would hold what an
            # iteration had until a garbage collection, which may be hundreds of epochs later.
            self._tell = _nobody
            self._queue.clear()
            threads = list(self._at.threads.values())
            self._changed.notify_all()
        until = time.monotonic() + wait
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def has_read_younger_than(self, seconds: float) -> bool:
        """Whether the source is still being read by threads, abandoned ones included."""
        now = time.monotonic()
        return any(now - began < seconds for began in list(self._inside.values()))

    # Threads.

    def _enqueue(self, attempts: Sequence[Attempt], *, first: bool = False) -> None:
        with self._changed:
            if self._closed:
                return
            if first:
                self._queue.extendleft(reversed(attempts))
            else:
                self._queue.extend(attempts)
            self._start_threads()
            self._changed.notify(len(attempts))

    def _start_threads(self) -> None:
        """Under the lock: enough threads for what is queued."""
        at = self._at
        wanted = min(len(self._queue) - at.idle, self._thread_limit - len(at.threads))
        for _ in range(max(0, wanted)):
            self._started += 1
            name = f"stoker-fetch-{self._started}"
            # Daemons: leaving the program never waits for a read that is stuck.
            thread = threading.Thread(target=self._run, args=(self._started,), name=name)
            thread.daemon = True
            at.threads[self._started] = thread
            thread.start()

    @property
    def _thread_limit(self) -> int:
        return self._most_threads + self._at.hedges

    def _run(self, thread: int) -> None:
        scratch, at = Scratch(), self._at
        while (attempt := self._take(thread)) is not None:
            cached, failure = False, None
            try:
                data, cached = self._read(attempt, scratch)
            except BaseException as error:  # a Rust panic is a BaseException
                data, failure = memoryview(b""), error
            del self._inside[thread]
            with self._changed:
                if at.reading.get(thread) is not attempt:
                    at.abandoned -= 1
                    return
                del at.reading[thread]
                at.ended(attempt)
                at.landing[thread] = attempt
                if failure is None:
                    self._settle(attempt, cached, len(data))
            try:
                if failure is None:
                    self._accept(attempt.request, data, cached)
                else:
                    self._refuse(attempt, failure)
            except BaseException as error:
                self._fail(error)
            with self._changed:
                if at.landing.pop(thread, None) is None:
                    at.abandoned -= 1
                    return

    def _take(self, thread: int) -> Attempt | None:
        at = self._at
        with self._changed:
            while not self._closed and len(at.threads) <= self._thread_limit:
                now = time.monotonic()
                attempt = next((one for one in self._queue if one.not_before <= now), None)
                if attempt is not None:
                    self._queue.remove(attempt)
                    request = attempt.request
                    if request.over:
                        at.ended(attempt)
                        continue
                    request.attempts += 1
                    request.first_began = request.first_began or now
                    attempt.number, attempt.began = request.attempts, now
                    at.reading[thread] = attempt
                    self._inside[thread] = now
                    self._hedging.asked()
                    return attempt
                pause = min((one.not_before - now for one in self._queue), default=None)
                at.idle += 1
                self._changed.wait(pause)
                at.idle -= 1
            at.threads.pop(thread, None)
            self._changed.notify()  # it may have been this one that was told of new work
            return None

    # What becomes of an attempt.

    def _read(self, attempt: Attempt, scratch: Scratch) -> tuple[memoryview, bool]:
        """The bytes, and whether they are the cache's. A second attempt is the store's alone."""
        request = attempt.request
        if self._cache is not None and attempt.number == 1 and request.generation == 0:
            data = self._cache.get(request.read, scratch)
            if data is not None:
                return data, True
        return self._source.read(request.read, scratch), False

    def _settle(self, attempt: Attempt, cached: bool, size: int) -> None:
        """Under the lock: this attempt brought the bytes, others at the same read are given up."""
        request, at = attempt.request, self._at
        request.settled = True
        for thread, other in list(at.reading.items()):
            if other.request is request:
                at.abandon(thread)
        if not cached:
            self._answered = True
            self._hedging.took(size, time.monotonic() - attempt.began)
            self._counts.add(requests=1, bytes_read=size, hedges_won=int(attempt.hedge))

    def _accept(self, request: Request, data: memoryview, cached: bool) -> None:
        job = request.job
        # The job's last read may finish in another thread, and this one's buffer is used again.
        kept = data if len(job.data) == 1 else bytes(data)
        with self._changed:
            if request.generation != job.generation:
                return
            job.data[request.number] = kept
            if cached:
                job.cached.add(request.number)
            job.missing -= 1
            if job.missing:
                return
        try:
            following = job.part.land(job.data)
        except CorruptShard as error:
            self._read_again(request, error)
            return
        landed, job.data = job.data, []
        if following is None:
            job.done()
        else:
            self.submit(following, job.done, first=True)
        if self._cache is not None:
            for number, read in enumerate(job.part.reads):
                if number not in job.cached:
                    self._cache.put(read, landed[number])

    def _refuse(self, attempt: Attempt, error: BaseException) -> None:
        request = attempt.request
        if request.over:
            return
        if isinstance(error, TransientError):
            self._counts.add(throttled=int(error.throttled))
            self._troubled(attempt, str(error), throttled=error.throttled)
        elif isinstance(error, CorruptShard):
            self._read_again(request, error)
        else:
            self._fail(error)

    def _read_again(self, request: Request, error: CorruptShard) -> None:
        """The cache's bytes may rot, the store's be damaged on their way: once more, then it's
        the shard.
        """
        job = request.job
        with self._changed:
            if request.generation != job.generation:
                return
            rotten = [job.part.reads[number] for number in job.cached]
            hopeless = job.read_again and not rotten
            job.read_again |= not rotten
            job.cached = set()
            job.generation += 1
            job.missing = len(job.data)
        if hopeless:
            self._fail(error)
            return
        self._counts.add(cache_damaged=bool(rotten), corrupt_rereads=not rotten)
        for read in rotten:
            assert self._cache is not None
            self._cache.drop(read)
        # In front: what was asked for first is needed first.
        reads = enumerate(job.part.reads)
        self._enqueue(
            [Attempt(Request(job, n, read, job.generation)) for n, read in reads], first=True
        )

    def _troubled(self, attempt: Attempt, trouble: str, *, throttled: bool = False) -> None:
        """An attempt came to nothing: once more after a pause, if no other one is under way."""
        patience, now, request = self._patience, time.monotonic(), attempt.request
        with self._changed:
            request.last_trouble = trouble
            if request.live or request.over:
                return
            request.live = 1
        tried = now - request.first_began
        most = patience.total if self._answered else min(patience.first_total, patience.total)
        if tried > most:
            self._fail(
                StoreError(
                    f"{self._name(request.read)} could not be read: {request.attempts} attempts "
                    f"in {tried:.0f} s, the last one: {trouble}"
                )
            )
            return
        self._counts.add(retries=1)
        first = patience.throttled_pause if throttled else patience.first_pause
        pause = min(patience.longest_pause, first * 2 ** (request.attempts - 1))
        not_before = now + pause * random.uniform(0.5, 1.0)
        self._enqueue([Attempt(request, not_before=not_before)], first=True)

    def _deadline(self, attempt: Attempt) -> float:
        first, longest = self._patience.deadline, self._patience.longest_deadline
        return min(first * 2.0 ** (attempt.number - 1), max(first, longest))

    def _is_late(self, request: Request, seconds: float) -> bool:
        size = request.read.stop - request.read.start
        return seconds > self._hedging.late_after(size) and self._hedging.grant()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
            tell, self._tell = self._tell, _nobody
        tell(error)

    def _name(self, read: Read) -> str:
        return f"{self._source.uri}/{read.key} bytes {read.start}-{read.stop}"


def _nobody(error: BaseException) -> None:
    """Is told of what goes wrong after the end."""


_open_fetchers: weakref.WeakSet[Fetcher] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: no more reads, and a moment for those that are under way.

    A thread that comes back from native code while the interpreter is being taken down is unwound
    through Rust's frames, which aborts the process ("FATAL: exception not rethrown", until Python
    3.14). What has been under way for longer is stuck, and most likely stays so.
    """
    fetchers = list(_open_fetchers)
    for fetcher in fetchers:
        fetcher.close()
    until = time.monotonic() + _EXIT_SECONDS
    while time.monotonic() < until and any(
        fetcher.has_read_younger_than(_STUCK_SECONDS) for fetcher in fetchers
    ):
        time.sleep(0.01)


atexit.register(_close_all)
os.register_at_fork(after_in_child=_open_fetchers.clear)
