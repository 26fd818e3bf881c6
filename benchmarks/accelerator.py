"""What a training loop feeds: a real GPU where torch sees one, else an emulated one that says so.

Both take batches asynchronously, a few steps ahead of the device, and hand back when each step's
batch was copied and when its compute began and ended, on the host's clock (`time.perf_counter_ns`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import xxhash

from benchmarks.profiles import Profile

Batch = Mapping[str, torch.Tensor]

STEP = np.dtype(
    [
        ("copy_start", np.int64),
        ("copy_end", np.int64),
        ("start", np.int64),
        ("end", np.int64),
        ("overshoot", np.int64),
        ("slots", np.int64),
        ("tokens", np.int64),
        ("bytes", np.int64),
    ]
)
SPIN_NS = 500_000
# More than 1 % of the window lost by the emulator itself: the figures would be about the emulator.
OVERSHOOT_LIMIT = 0.01
DEPTH = 2


@dataclass(frozen=True)
class Trace:
    """What the device did: one STEP row a step, times in host nanoseconds.

    `slots`: token positions computed. `tokens`: those that are no padding. `checksum` covers every
    byte of every batch. `clock_error_ns`: how far device times may be off the host's clock.
    """

    steps: np.ndarray
    checksum: int
    clock_error_ns: int = 0


class Accelerator(Protocol):
    """A device that trains on the batches it is given."""

    title: str
    emulated: bool

    def submit(self, batch: Batch) -> None:
        """Enqueue the copy of `batch` and a step over it; blocks while too many are pending."""

    def finish(self) -> Trace:
        """Wait for every step and return what happened since the last `finish`."""

    def close(self) -> None:
        """Release the device."""


def real_tokens(batch: Batch) -> int:
    """Token positions of `batch` that are no padding.

    Padding is what `attention_mask` leaves out, or, without a mask, rows whose labels are all -100
    (a loss mask inside a row hides tokens from the loss, not from the compute).
    """
    mask = batch.get("attention_mask")
    if mask is not None:
        return int(mask.count_nonzero())
    rows = (batch["labels"] != -100).any(dim=-1)
    return int(rows.count_nonzero()) * batch["input_ids"].shape[-1]


@dataclass
class EmulatedAccelerator:
    """Steps of a stated length on a device thread, which the host feeds two steps ahead.

    A step starts when the one before has ended and its batch has been copied, and ends
    `profile.step_ns(slots) * time_scale` later: a deadline, not a sleep, so what the machine's
    timers add (`overshoot`) is reported instead of passing as useful work, and does not add up.
    The copy engine is one link at `profile.h2d_bytes_per_s / time_scale`, and overlaps with
    compute. Every byte of a batch is read and checksummed, as a copy would.
    """

    profile: Profile
    time_scale: float = 1.0
    depth: int = DEPTH
    emulated: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale is {self.time_scale}: it must be above 0")
        scale = "" if self.time_scale == 1 else f" x{1 / self.time_scale:g}"
        self.title = f"emulated({self.profile.title}{scale})"
        self._jobs: queue.SimpleQueue[tuple[int, Batch] | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(self.depth)
        self._rows: list[tuple[int, ...]] = []
        self._digest = xxhash.xxh3_64()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulated-accelerator", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        """See `Accelerator.submit`."""
        self._free.acquire()
        self._raise_failure()
        self._jobs.put((time.perf_counter_ns(), batch))

    def finish(self) -> Trace:
        """See `Accelerator.finish`."""
        for _ in range(self.depth):
            self._free.acquire()
        self._raise_failure()
        trace = Trace(np.array(self._rows, dtype=STEP), self._digest.intdigest())
        self._rows = []
        self._digest.reset()
        self._free.release(self.depth)
        return trace

    def close(self) -> None:
        """See `Accelerator.close`."""
        self._jobs.put(None)
        self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._free.release()
            raise RuntimeError("the emulated accelerator could not take a batch") from self._failure

    def _run(self) -> None:
        link_free = device_free = 0
        while (job := self._jobs.get()) is not None:
            submitted, batch = job
            try:
                size = self._touch(batch)
                slots = batch["input_ids"].numel()
                tokens = real_tokens(batch)
            except BaseException as error:
                self._failure = error
                self._free.release(self.depth)
                return
            del batch, job
            copy_start = max(submitted, link_free)
            rate = self.profile.h2d_bytes_per_s / self.time_scale
            copy_end = link_free = copy_start + round(1e9 * size / rate)
            start = max(device_free, copy_end)
            end = device_free = start + round(self.profile.step_ns(slots) * self.time_scale)
            overshoot = wait_until(end) - end
            self._rows.append((copy_start, copy_end, start, end, overshoot, slots, tokens, size))
            self._free.release()

    def _touch(self, batch: Batch) -> int:
        size = 0
        for name in sorted(batch):
            data = batch[name].contiguous().numpy()
            self._digest.update(data.data)
            size += data.nbytes
        return size


def wait_until(deadline_ns: int) -> int:
    """Return at `deadline_ns` of `perf_counter_ns`, or at once when it is past; the time then.

    Sleeps to 0.5 ms before it, then spins, giving way to other threads at each turn.
    """
    while (now := time.perf_counter_ns()) < deadline_ns:
        time.sleep(max(0, deadline_ns - now - SPIN_NS) / 1e9)
    return now


def pick_accelerator(profile: Profile, time_scale: float, vocabulary: int) -> Accelerator:
    """The GPU with `profile`'s model where torch sees one, else `profile` emulated."""
    if torch.cuda.is_available():
        from benchmarks.gpu import CudaAccelerator

        return CudaAccelerator(profile.model, vocabulary)
    return EmulatedAccelerator(profile, time_scale)


def describe(trace: Trace, window_ns: int) -> dict[str, Any]:
    """What the device says about its own precision within a window of `window_ns`."""
    share = float(trace.steps["overshoot"].sum() / max(1, window_ns))
    return {
        "overshoot_share": share,
        "valid": share <= OVERSHOOT_LIMIT,
        "clock_error_ns": trace.clock_error_ns,
        "checksum": f"{trace.checksum:016x}",
    }
