"""Some parts now, for who waits for them: single samples, outside of any loader."""

import threading
from collections.abc import Sequence

from loaders.attempts import Part
from loaders.fetch import WATCH_SECONDS, Fetcher
from loaders.source import Source
from loaders.stats import FetchCounts


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
                    changed.wait(WATCH_SECONDS)
            fetcher.watch()
    finally:
        fetcher.close(wait=0.2)
    if errors:
        raise errors[0]
