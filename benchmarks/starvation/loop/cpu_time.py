"""How much CPU a loader takes: its own process and those that it started, nobody else's."""

from __future__ import annotations

import threading
import time

import psutil


class CpuTime:
    """CPU time of this process and of its children, but for those that are there already.

    A server that was started for the run is no part of the loader that reads from it.
    """

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._others = {each.pid for each in self._own.children(recursive=True)}

    def seconds(self) -> float:
        """Since each of them began; those that have ended too, where somebody waited for them.

        Many loaders have new workers for each epoch.
        """
        total = 0.0
        for process in (self._own, *self._own.children(recursive=True)):
            if process.pid in self._others:
                continue
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total


class Look:
    """One look at `used`, by a thread: it takes milliseconds, which a loop doesn't have."""

    def __init__(self, used: CpuTime, *, beside: bool = True) -> None:
        self._used = used
        self._seen = 0.0
        self.at_ns = time.perf_counter_ns()
        self._thread = threading.Thread(target=self._look, name="cpu-time")
        self._thread.start()
        # Where there is no loop yet, workers may be forked next: not beside a thread at work.
        if not beside:
            self._thread.join()

    def seconds(self) -> float:
        """What it saw; waits for it."""
        self._thread.join()
        return self._seen

    def _look(self) -> None:
        self._seen = self._used.seconds()
