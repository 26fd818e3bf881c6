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
from typing import Protocol

import numpy as np
import torch
import xxhash

from benchmarks.starvation.profiles import Profile
from benchmarks.starvation.recording import STEP as STEP
from benchmarks.starvation.recording import Trace as Trace
from shards.errors import StokerError

Batch = Mapping[str, torch.Tensor]

SPIN_NS = 500_000
NOT_WAITING = 2**63
DEPTH = 2


class Accelerator(Protocol):
    """A device that trains on the batches it is given."""

    title: str
    emulated: bool

    def submit(self, batch: Batch) -> int | None:
        """Enqueue the copy of `batch` and a step over it; blocks while too many are pending.

        Returns when its copy was enqueued, where the step's own launch came after that.
        """

    def finish(self) -> Trace:
        """Wait for every step and return what happened since the last `finish`."""

    def close(self) -> None:
        """Release the device."""


def real_tokens(batch: Batch) -> int:
    """Token positions of `batch` that are no padding.

    Padding is what `attention_mask` leaves out, or, without a mask, rows whose labels are all -100
    (a loss mask inside a row hides tokens from the loss, not from the compute).
    """
    # numpy: torch would wake its thread pool, which spins on cores that the loader needs.
    mask = batch.get("attention_mask")
    if mask is not None:
        return int(np.count_nonzero(mask.numpy()))
    rows = (batch["labels"].numpy() != -100).any(axis=-1)
    return int(np.count_nonzero(rows)) * batch["input_ids"].shape[-1]


@dataclass
class EmulatedAccelerator:
    """Steps of a stated length on a device thread, which the host feeds two steps ahead.

    `cards` of them train data-parallel: each takes its part of a batch, in step with the others and
    over a link of its own.

    A step starts when the one before has ended and its batch has been copied, and ends
    `profile.step_ns` later, times `time_scale`: useful time is the nominal time. What the machine's
    timers add does not pass as work and does not add up; it can only hold the host, when that waits
    for the step to end. That part is the trace's `overshoot`: all the idleness that the emulator
    itself may have caused. The copy engine overlaps with compute. Every byte of a batch is read and
    checksummed, as a copy would.
    """

    profile: Profile
    cards: int = 1
    time_scale: float = 1.0
    depth: int = DEPTH
    emulated: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale is {self.time_scale}: it must be above 0")
        if self.cards < 1:
            raise ValueError(f"cards is {self.cards}: there must be at least one")
        cards = "" if self.cards == 1 else f"{self.cards} x "
        scale = "" if self.time_scale == 1 else f", time x {self.time_scale:g}"
        self.title = f"emulated({cards}{self.profile.title}{scale})"
        self._jobs: queue.SimpleQueue[tuple[int, Batch] | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(self.depth)
        self._waiting_since = NOT_WAITING
        self._rows: list[tuple[int, ...]] = []
        self._digest = xxhash.xxh3_64()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulated-accelerator", daemon=True)
        self._thread.start()

    def step_ns(self, slots: int) -> int:
        """Nanoseconds of a step over a batch of `slots` token positions."""
        return round(self.profile.step_ns(slots / self.cards) * self.time_scale)

    def copy_ns(self, size: int) -> int:
        """Nanoseconds in which a batch of `size` bytes reaches the cards."""
        return round(1e9 * size / self.cards / self.profile.h2d_bytes_per_s * self.time_scale)

    def submit(self, batch: Batch) -> None:
        """See `Accelerator.submit`."""
        self._wait_for_a_place()
        self._raise_failure()
        self._jobs.put((time.perf_counter_ns(), batch))

    def finish(self) -> Trace:
        """See `Accelerator.finish`."""
        for _ in range(self.depth):
            self._wait_for_a_place()
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

    def _wait_for_a_place(self) -> None:
        if not self._free.acquire(blocking=False):
            self._waiting_since = time.perf_counter_ns()
            self._free.acquire()
            self._waiting_since = NOT_WAITING

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
            copy_end = link_free = copy_start + self.copy_ns(size)
            start = max(device_free, copy_end)
            end = device_free = start + self.step_ns(slots)
            overshoot = max(0, wait_until(end) - max(end, self._waiting_since))
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


def pick_accelerator(
    profile: Profile, *, cards: int, time_scale: float, vocabulary: int
) -> Accelerator:
    """The GPU with `profile`'s model where torch sees one, else `profile` emulated.

    Raises:
        StokerError: `cards` or `time_scale` other than 1 beside a real GPU.
    """
    if not torch.cuda.is_available():
        return EmulatedAccelerator(profile, cards, time_scale)
    if cards != 1 or time_scale != 1:
        raise StokerError(
            f"cards={cards}, time_scale={time_scale:g}: only the emulated accelerator has these,"
            " and torch sees a GPU here (CUDA_VISIBLE_DEVICES= hides it)"
        )
    from benchmarks.starvation.gpu import CudaAccelerator

    return CudaAccelerator(profile.model, vocabulary)
