"""SIGINT and SIGTERM as one exception, so that a stopped job leaves through its `with` blocks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; what is done stays done.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        return f"{name} came. Finished units stay; the same command continues from there"


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, the two signals raise Interrupted in the main thread; elsewhere nothing changes.

    Ray sets a handler of its own when it connects: enter this again after that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    # A second signal while the first is on its way out would tear Ray's shutdown apart.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)
