"""Some parts now, for who waits for them: a dataset's tables, samples outside of a loader."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loaders.attempts import Part
from loaders.fetch import WATCH_SECONDS, Fetcher
from loaders.source import Source
from loaders.stats import FetchCounts
from shards.errors import StoreError

# Nobody is told of it otherwise; a store that doesn't answer at all is an error soon after.
STALL_WARNING_S = 15.0

_log = logging.getLogger(__name__)
_given_up = threading.Event()


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Inside, `bring` gives up in all threads: for the end of the program, so that they can end."""
    _given_up.set()
    try:
        yield
    finally:
        _given_up.clear()


def bring(source: Source, parts: Sequence[Part]) -> None:
    """Brings `parts` side by side and returns when all have landed, or raises what went wrong.

    After `STALL_WARNING_S` a line in the log says what is being waited for.
    """
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
    warn_at = time.monotonic() + STALL_WARNING_S
    try:
        for part in parts:
            fetcher.submit(part, landed)
        while missing and not errors:
            if _given_up.is_set():
                raise StoreError(f"{source.uri}: the program ends while this is being read")
            with changed:
                if missing and not errors:
                    changed.wait(WATCH_SECONDS)
            fetcher.watch()
            if time.monotonic() > warn_at:
                warn_at = float("inf")
                _log.warning("waiting for %g s: %s", STALL_WARNING_S, fetcher.waiting_for())
    finally:
        fetcher.close(wait=0.2)
    if errors:
        raise errors[0]
