"""What a training loop feeds, and the emulated one, which says that it is; `pick.py` chooses.

Both take batches asynchronously, a few steps ahead of the device, and hand back when each step's
batch was copied and when its compute began and ended, on the host's clock (`time.perf_counter_ns`).
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import xxhash

from benchmarks.starvation.cards.exchange import Exchange
from benchmarks.starvation.cards.profiles import Profile
from benchmarks.starvation.explain.causes import COMMUNICATION, STRAGGLER
from benchmarks.starvation.loop.recording import SPAN
from benchmarks.starvation.loop.recording import STEP as STEP
from benchmarks.starvation.loop.recording import Trace as Trace

Batch = Mapping[str, torch.Tensor]

SPIN_NS = 500_000
PR_SET_TIMERSLACK, SLACK_NS = 29, 1000
NOT_WAITING = 2**63
DEPTH = 2
# Copies from pageable memory pass through a page-locked buffer: about half the rate (measured on
# several GPUs in NVIDIA's "How to Optimize Data Transfers in CUDA C/C++").
PAGEABLE = 0.5


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


@dataclass(frozen=True, kw_only=True)
class Node:
    """The machine around an emulated card.

    `host_busy_ms`: how long launching a step keeps the interpreter busy, lock and all; scaled as
    steps are. `pageable`: batches are not in page-locked memory: the loop stands still while one is
    copied, at `PAGEABLE` of the link's rate. `h2d_bytes_per_s`: another link than the profile's.
    """

    host_busy_ms: float = 0.0
    pageable: bool = False
    h2d_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.host_busy_ms < 0:
            raise ValueError(f"host_busy_ms is {self.host_busy_ms}: it can't be negative")
        if self.h2d_bytes_per_s is not None and not self.h2d_bytes_per_s > 0:
            raise ValueError(f"h2d_bytes_per_s is {self.h2d_bytes_per_s}: it must be above 0")

    @property
    def title(self) -> str:
        """What differs from a node that hinders nothing, each behind a comma."""
        busy = f", host busy {self.host_busy_ms:g} ms" if self.host_busy_ms else ""
        rate = self.h2d_bytes_per_s
        link = f", link {rate / 1e9:.3g} GB/s" if rate is not None else ""
        return busy + link + (", pageable memory" if self.pageable else "")


@dataclass(frozen=True)
class Job:
    """A batch on its way: when it was copied, and when its step had been launched."""

    batch: Batch
    size: int
    copy_start: int
    copy_end: int
    launched: int


@dataclass
class EmulatedAccelerator:
    """Steps of a stated length on a device thread, which the host feeds two steps ahead.

    `cards` of them train data-parallel: each takes its part of a batch, in step with the others and
    over a link of its own. With an `exchange` this is one of several such ranks: a step ends when
    all ranks have computed theirs and `profile.communication_s` has passed. The trace's spans tell
    both parts of that wait, `straggler` and `communication`.

    A step starts when the one before has ended, its batch has been copied and it was launched, and
    computes for `profile.step_ns`, times `time_scale`: useful time is the nominal time. What the
    machine's timers add does not pass as work and does not add up; it can only hold the host, when
    that waits for the step to end. That part is the trace's `overshoot`: all the idleness that the
    emulator itself may have caused. The copy engine overlaps with compute. Every byte of a batch is
    read and checksummed, as a copy would.
    """

    profile: Profile
    cards: int = 1
    time_scale: float = 1.0
    depth: int = DEPTH
    node: Node = field(default_factory=Node)
    exchange: Exchange | None = None
    emulated: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale is {self.time_scale}: it must be above 0")
        if self.cards < 1:
            raise ValueError(f"cards is {self.cards}: there must be at least one")
        ranks = "" if self.exchange is None else f"{self.exchange.ranks} ranks of "
        cards = "" if self.cards == 1 else f"{self.cards} x "
        scale = "" if self.time_scale == 1 else f", time x {self.time_scale:g}"
        self.title = f"emulated({ranks}{cards}{self.profile.title}{scale}{self.node.title})"
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(self.depth)
        self._waiting_since = NOT_WAITING
        self._link_free = 0
        self._rows: list[tuple[int, ...]] = []
        self._spans: list[tuple[str, int, int]] = []
        self._digest = xxhash.xxh3_64()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulated-accelerator", daemon=True)
        self._thread.start()

    def step_ns(self, slots: int) -> int:
        """Nanoseconds that a step over a batch of `slots` token positions computes."""
        return round(self.profile.step_ns(slots / self.cards) * self.time_scale)

    @property
    def communication_ns(self) -> int:
        """Nanoseconds of a step in which ranks exchange data and nothing else goes on."""
        return round(1e9 * self.profile.communication_s * self.time_scale)

    def copy_ns(self, size: int) -> int:
        """Nanoseconds in which a batch of `size` bytes reaches the cards."""
        rate = self.node.h2d_bytes_per_s or self.profile.h2d_bytes_per_s
        rate *= PAGEABLE if self.node.pageable else 1
        return round(1e9 * size / self.cards / rate * self.time_scale)

    def submit(self, batch: Batch) -> int:
        """See `Accelerator.submit`."""
        self._wait_for_a_place()
        self._raise_failure()
        size = _nbytes(batch)
        copy_start = max(time.perf_counter_ns(), self._link_free)
        copy_end = self._link_free = copy_start + self.copy_ns(size)
        if self.node.pageable:
            wait_until(copy_end)
        handed = launched = time.perf_counter_ns()
        if self.node.host_busy_ms:
            launched += round(1e6 * self.node.host_busy_ms * self.time_scale)
            hold_the_interpreter(launched)
        self._jobs.put(Job(batch, size, copy_start, copy_end, launched))
        return handed

    def finish(self) -> Trace:
        """See `Accelerator.finish`."""
        for _ in range(self.depth):
            self._wait_for_a_place()
        self._raise_failure()
        steps, spans = np.array(self._rows, dtype=STEP), np.array(self._spans, dtype=SPAN)
        trace = Trace(steps, self._digest.intdigest(), spans=spans)
        self._rows, self._spans = [], []
        self._digest.reset()
        self._free.release(self.depth)
        return trace

    def close(self) -> None:
        """See `Accelerator.close`."""
        if self.exchange is not None:
            self.exchange.leave()
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
        sleep_precisely()
        device_free = 0
        while (job := self._jobs.get()) is not None:
            try:
                self._touch(job.batch)
                slots, tokens = job.batch["input_ids"].numel(), real_tokens(job.batch)
                start = max(device_free, job.copy_end, job.launched)
                end = device_free = self._exchanged(start + self.step_ns(slots))
            except BaseException as error:
                self._failure = error
                self._free.release(self.depth)
                return
            copied = (job.copy_start, job.copy_end)
            size = job.size
            # Its memory may be used again while this step is computed.
            del job
            overshoot = max(0, wait_until(end) - max(end, self._waiting_since))
            self._rows.append((*copied, start, end, overshoot, slots, tokens, size))
            self._free.release()

    def _exchanged(self, arrival: int) -> int:
        """When the step of a rank that has computed at `arrival` ends."""
        last = arrival if self.exchange is None else self.exchange.last(arrival)
        end = last + self.communication_ns
        if last > arrival:
            self._spans.append((STRAGGLER, arrival, last))
        if end > last:
            self._spans.append((COMMUNICATION, last, end))
        return end

    def _touch(self, batch: Batch) -> None:
        for name in sorted(batch):
            self._digest.update(batch[name].contiguous().numpy().data)


def _nbytes(batch: Batch) -> int:
    # What is no tensor fails on the device, where every other wrong batch does.
    return sum(getattr(value, "nbytes", 0) for value in batch.values())


def hold_the_interpreter(deadline_ns: int) -> None:
    """Run Python until `deadline_ns`, as a trainer that launches kernels does.

    Other threads get the interpreter's lock only where it is taken away.
    """
    while time.perf_counter_ns() < deadline_ns:
        pass


def sleep_precisely() -> None:
    """This thread's sleeps end on time: Linux otherwise adds up to 50 microseconds to each.

    Seen as the median overshoot of `wait_until` on a virtual machine: 44 microseconds, and 9 so.
    """
    with suppress(OSError, AttributeError):  # no Linux: then they end a little later
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(SLACK_NS), 0, 0, 0)


def wait_until(deadline_ns: int) -> int:
    """Return at `deadline_ns` of `perf_counter_ns`, or at once when it is past; the time then.

    Sleeps to 0.5 ms before it, then spins, giving way to other threads at each turn.
    """
    while (now := time.perf_counter_ns()) < deadline_ns:
        time.sleep(max(0, deadline_ns - now - SPIN_NS) / 1e9)
    return now
