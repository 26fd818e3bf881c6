"""Trying again while a store can't be reached: with which pauses, and for how long.

botocore's own retries last about a second unless the server says SlowDown, and know nothing of a
body that ends early. So what fails for want of a working server is tried again from here: a command
that a person waits for gives up after about 10 s, a job that may have run for hours after two
minutes. `STOKER_S3_PATIENCE_S` sets either.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shards.errors import Unavailable

_SHORT_S = 10.0
_LONG_S = 120.0
_LEAST_ATTEMPTS = 2
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 20.0

T = TypeVar("T")

_lock = threading.Lock()
_long_jobs = 0


@contextmanager
def long_patience() -> Iterator[None]:
    """Inside, this process bears an outage of two minutes."""
    global _long_jobs
    with _lock:
        _long_jobs += 1
    try:
        yield
    finally:
        with _lock:
            _long_jobs -= 1


def patience() -> float:
    """Seconds after its start in which an operation may be tried again."""
    chosen = os.environ.get("STOKER_S3_PATIENCE_S")
    return float(chosen) if chosen else _LONG_S if _long_jobs else _SHORT_S


def persist(attempt: Callable[[], T]) -> T:
    """What `attempt` returns, the first time that it doesn't raise Unavailable.

    Twice at least. Pauses double from half a second to 20 s and are shortened at random, or a
    thousand workers would come back in the same instant.

    Raises:
        Unavailable: time is up; says for how long it was tried.
    """
    started = time.monotonic()
    pause, attempts = _FIRST_PAUSE_S, 0
    while True:
        try:
            return attempt()
        except Unavailable as error:
            attempts += 1
            wait = pause * random.uniform(0.5, 1.0)
            tried = time.monotonic() - started
            if attempts >= _LEAST_ATTEMPTS and tried + wait > patience():
                raise Unavailable(f"{error}; tried for {tried:.0f} s") from error
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
