"""Moments on the clock of whatever computes: the host's own, or a CUDA device's by events.

Written for NVIDIA GPUs and not yet run on one: the test of the CUDA part is skipped without.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

ALIGNMENTS = 5


class Marks(Protocol):
    """Moments that are made one after another, and told as host nanoseconds at the end."""

    def mark(self) -> int:
        """This moment; the number it has in what `finish` returns."""

    @property
    def known(self) -> Sequence[float]:
        """Nanoseconds of the first marks, as many as are known yet; where 0 is, is left open."""

    def finish(self) -> tuple[np.ndarray, int]:
        """int64 [marks], nanoseconds of `time.perf_counter_ns`, and how far they may be off."""


class HostMarks:
    """For steps that run on the host: its own clock."""

    def __init__(self) -> None:
        self._times: list[int] = []

    def mark(self) -> int:
        """See `Marks.mark`."""
        self._times.append(time.perf_counter_ns())
        return len(self._times) - 1

    @property
    def known(self) -> Sequence[float]:
        """See `Marks.known`."""
        return self._times

    def finish(self) -> tuple[np.ndarray, int]:
        """See `Marks.finish`."""
        return np.array(self._times, dtype=np.int64), 0


class DeviceClock:
    """Times of a CUDA device's events, chained from one to the next and laid on the host's clock.

    CUDA gives spans as float32 milliseconds: only short ones are precise. The host's clock follows
    by a linear fit through moments at which the device was synchronized.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.synchronize(device)
        self._host: list[int] = []
        self._own: list[float] = []
        self._at = 0.0
        self._anchor = torch.cuda.Event(enable_timing=True)
        self._anchor.record()
        self.align()

    def align(self) -> None:
        """Moments known on both clocks: on an idle device an event recorded now is done now."""
        for _ in range(ALIGNMENTS):
            event = torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize(self.device)
            before = time.perf_counter_ns()
            event.record()
            event.synchronize()
            self._host.append((before + time.perf_counter_ns()) // 2)
            self._own.append(self.advance(event))

    def read(self, event: torch.cuda.Event) -> float:
        """Nanoseconds of a finished event near the last one advanced to, on the device's clock."""
        return self._at + float(self._anchor.elapsed_time(event)) * 1e6

    def advance(self, event: torch.cuda.Event) -> float:
        """The same, and the next span begins there."""
        self._at = self.read(event)
        self._anchor = event
        return self._at

    def on_host(self, times: np.ndarray) -> tuple[np.ndarray, int]:
        """Device nanoseconds as int64 ones of the host, and the largest residual of the fit."""
        host, own = np.array(self._host), np.array(self._own)
        slope, offset = np.polyfit(own - own[0], host - host[0], 1)
        error = np.abs(slope * (own - own[0]) + offset - (host - host[0])).max()
        told = np.round(slope * (np.asarray(times) - own[0]) + offset).astype(np.int64) + host[0]
        return told, int(error)


class CudaMarks:
    """Events on the current stream of a CUDA device, read when they are done, never waited for."""

    def __init__(self, device: torch.device) -> None:
        self.clock = DeviceClock(device)
        self._pending: deque[torch.cuda.Event] = deque()
        self._times: list[float] = []

    def mark(self) -> int:
        """See `Marks.mark`."""
        while self._pending and self._pending[0].query():
            self._times.append(self.clock.advance(self._pending.popleft()))
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.clock.device))
        self._pending.append(event)
        return len(self._times) + len(self._pending) - 1

    @property
    def known(self) -> Sequence[float]:
        """See `Marks.known`."""
        return self._times

    def finish(self) -> tuple[np.ndarray, int]:
        """See `Marks.finish`; waits for the device."""
        torch.cuda.synchronize(self.clock.device)
        while self._pending:
            self._times.append(self.clock.advance(self._pending.popleft()))
        self.clock.align()
        return self.clock.on_host(np.array(self._times))


def marks_of(device: torch.device) -> Marks:
    """Marks of what computes on `device`."""
    return CudaMarks(device) if device.type == "cuda" else HostMarks()
