"""How much CPU a loader takes: its own process and those that it started, nobody else's."""

from __future__ import annotations

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
