"""What is to be brought, and how it stands: parts, their reads, each read's attempts.

All of it changes under the lock of the fetcher that it belongs to.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loaders.source import Read


@dataclass(frozen=True)
class Patience:
    """How long to put up with a store. Seconds."""

    deadline: float = 10.0  # of a first attempt; S3's slow ones take 1-2 s for a MiB
    longest_deadline: float = 40.0  # deadlines double: what is slow needs time, not more threads
    total: float = 120.0  # a read that kept failing for this long fails, if others were answered;
    first_total: float = 21.0  # if none ever was, it's probably the endpoint that is wrong
    first_pause: float = 0.1  # doubled from attempt to attempt, with jitter
    throttled_pause: float = 0.5  # likewise, where the store asked for fewer requests
    longest_pause: float = 2.0
    most_abandoned: int = 64  # threads written off at once


class Part(Protocol):
    """Something to bring: its reads, and what to do with their bytes."""

    @property
    def reads(self) -> Sequence[Read]: ...

    def land(self, data: Sequence[memoryview | bytes]) -> "Part | None":
        """Verifies the bytes of `reads` and puts them in place. CorruptShard: read them again.

        Returns what has to be brought after it, where the bytes said what that is.
        """
        ...


@dataclass(eq=False)
class Job:
    """A part that was asked for."""

    part: Part
    done: Callable[[], None]
    missing: int
    data: list[memoryview | bytes]
    generation: int = 0  # raised when everything is read again: older reads no longer count
    cached: set[int] = field(default_factory=set)  # reads answered by the disk cache
    read_again: bool = False  # the store's bytes were wrong once


@dataclass(eq=False)
class Request:
    """One read of a job, over all its attempts."""

    job: Job
    number: int
    read: Read
    generation: int = 0
    attempts: int = 0
    live: int = 1  # attempts that are queued or under way
    settled: bool = False
    first_began: float = 0.0
    last_trouble: str = ""

    @property
    def over(self) -> bool:
        """Nothing is to be done for it any more."""
        return self.settled or self.generation != self.job.generation


@dataclass(eq=False)
class Attempt:
    """One attempt at a read, queued or under way. `hedge`: sent beside one that was late."""

    request: Request
    hedge: bool = False
    not_before: float = 0.0
    number: int = 0
    began: float = 0.0


@dataclass
class Standing:
    """What the fetcher's threads are at, under its lock. Threads by number."""

    threads: dict[int, threading.Thread] = field(default_factory=dict)
    reading: dict[int, Attempt] = field(default_factory=dict)
    landing: dict[int, Attempt] = field(default_factory=dict)  # verifying, keeping in the cache
    idle: int = 0
    abandoned: int = 0
    hedges: int = 0  # queued or under way

    def abandon(self, thread: int) -> None:
        """The thread is written off, another one may take its place."""
        del self.threads[thread]
        self.abandoned += 1
        if (attempt := self.reading.pop(thread, None)) is not None:
            self.ended(attempt)
        else:
            del self.landing[thread]  # it does finish what it is at, if it ever can

    def ended(self, attempt: Attempt) -> None:
        """An attempt is no longer queued or under way."""
        attempt.request.live -= 1
        self.hedges -= attempt.hedge
