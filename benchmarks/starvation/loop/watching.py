"""What disturbs a loop from outside of it: garbage collections, and memory that is short."""

from __future__ import annotations

import gc
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.starvation.explain.causes import GC
from benchmarks.starvation.loop.recording import PRESSURE, SPAN

# How long processes of this control group, or else of this machine, stood still for memory.
PRESSURE_FILES = (Path("/sys/fs/cgroup/memory.pressure"), Path("/proc/pressure/memory"))
# Asking the allocator for its counters takes about 0.1 ms.
ALLOCATOR_EVERY_NS = 20_000_000
# Asking the kernel takes 20 microseconds on a thread that has just slept: 0.1 % at most.
EVERY_NS = 20_000_000


class Watch:
    """Between `start` and `stop`: SPAN rows of garbage collections, PRESSURE rows of steps.

    One thread calls all of it; collections are noticed on any thread, since they hold all of them.
    Memory is looked at each `every_ns` at most: what was short is then told of a later step.
    """

    def __init__(self, every_ns: int = EVERY_NS) -> None:
        self._every, self._looked = every_ns, 0
        self._spans: list[tuple[str, int, int]] = []
        self._rows: list[tuple[int, int, int, int]] = []
        self._began = 0
        self._file = -1
        self._cuda = False
        self._asked_allocator = 0

    def start(self) -> None:
        """Watch from now on."""
        self._file = next((os.open(p, os.O_RDONLY) for p in PRESSURE_FILES if _readable(p)), -1)
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._faults, self._stalled, self._retries = _faults(), self._stall(), self._allocator()
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Watch no more; a second call does nothing."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def step(self, number: int) -> None:
        """Step `number` is over: was memory short since the one before?"""
        now = time.perf_counter_ns()
        if now - self._looked < self._every:
            return
        self._looked = now
        faults, stalled, retries = _faults(), 0, 0
        if faults != self._faults:
            # Others' stalls are in that file too: count it only when this process had to page.
            total = self._stall()
            stalled, self._stalled = total - self._stalled, total
        if self._cuda and now - self._asked_allocator > ALLOCATOR_EVERY_NS:
            self._asked_allocator = now
            total = self._allocator()
            retries, self._retries = total - self._retries, total
        if faults != self._faults or retries:
            self._rows.append((number, stalled, faults - self._faults, retries))
            self._faults = faults

    @property
    def spans(self) -> np.ndarray:
        """SPAN rows, cause "gc"."""
        return np.array(self._spans, dtype=SPAN)

    @property
    def pressure(self) -> np.ndarray:
        """PRESSURE rows of the steps in which there was any."""
        return np.array(self._rows, dtype=PRESSURE)

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began = now
        else:
            self._spans.append((GC, self._began, now))

    def _stall(self) -> int:
        if self._file < 0:
            return 0
        try:
            first = os.pread(self._file, 200, 0).split(b"\n")[0]
        except OSError:  # a kernel that has the file and was started without what fills it
            return 0
        return int(first.rpartition(b"total=")[2] or 0) * 1000

    def _allocator(self) -> int:
        if not self._cuda:
            return 0
        return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
