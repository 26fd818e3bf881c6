"""A process and all it started, looked at from outside: CPU, memory, threads, descriptors."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass

import psutil

# Ten looks a second at a handful of processes cost about 1 % of a core.
_LOOK_S = 0.1


@dataclass(frozen=True)
class Look:
    """Sums over all processes of a tree at one moment.

    Attributes:
        cpu_s: user and system, of those that ended and were waited for too.
        files, sockets: open file descriptors: sockets, and all the others.
        rss: bytes; a page that processes share counts in each.
        files: open file descriptors.
    """

    cpu_s: float
    rss: int
    threads: int
    processes: int
    files: int
    sockets: int


def look(pid: int) -> Look:
    """At `pid` and its descendants; a process that has just gone is left out."""
    cpu, rss, threads, processes, files, sockets = 0.0, 0, 0, 0, 0, 0
    found = []
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
    for one in found:
        with suppress(psutil.Error), one.oneshot():
            times = one.cpu_times()
            memory, running, opened = one.memory_info().rss, one.num_threads(), _opened(one.pid)
            cpu += times.user + times.system + times.children_user + times.children_system
            rss, threads, processes = rss + memory, threads + running, processes + 1
            connected = sum(name.startswith("socket:") for name in opened)
            files, sockets = files + len(opened) - connected, sockets + connected
    return Look(cpu, rss, threads, processes, files, sockets)


def _opened(pid: int) -> list[str]:
    """What the descriptors of a process lead to; nothing where there is no /proc."""
    found = []
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


class Peaks:
    """Looks at a tree again and again while a block runs; the most of each."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.rss = self.threads = self.processes = 0
        self.cpu_s = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Peaks:
        self._began = self._once().cpu_s
        self._thread = threading.Thread(target=self._run, name="peaks", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.cpu_s = max(0.0, self._once().cpu_s - self._began)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._once()

    def _once(self) -> Look:
        seen = look(self.pid)
        self.rss = max(self.rss, seen.rss)
        self.threads = max(self.threads, seen.threads)
        self.processes = max(self.processes, seen.processes)
        return seen
