"""What is written down while a loop runs: host and device times, spans, a loader's own evidence.

All times are nanoseconds of `time.perf_counter_ns` of the process that wrote them, int64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# The loop: it asked for a batch, got it, had handed it to the device, had the step enqueued.
HOST_STEP = np.dtype(
    [("asked", "<i8"), ("got", "<i8"), ("handed", "<i8"), ("submitted", "<i8")],
)
# The device: when the step's batch was copied, when its compute began and ended.
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
# Anything else that took time, by the cause that it is. "communication" may lie inside a step: from
# this rank's arrival at an exchange to its end; what of it is straggling, the other ranks tell.
SPAN = np.dtype([("cause", "U16"), ("start", "<i8"), ("stop", "<i8")])
# What a loader with workers tells of its batches: `batch` in order of delivery from 0, `kind` one
# of "fetch", "prep", "assemble". Many rows a batch; a worker's rows of one batch don't overlap.
WORK = np.dtype(
    [("batch", "<i8"), ("worker", "<i8"), ("kind", "U10"), ("start", "<i8"), ("stop", "<i8")]
)
# Memory being short, by the number of the step before which it was noticed: for how long the kernel
# says that this process stood still for it, and how often the device's allocator tried again.
PRESSURE = np.dtype([("step", "<i8"), ("stalled", "<i8"), ("faults", "<i8"), ("retries", "<i8")])


@dataclass(frozen=True)
class Trace:
    """What the device did: one STEP row a step, times in host nanoseconds.

    `overshoot`: how long the host was held beyond the step's end. `slots`: token positions
    computed. `tokens`: those that are no padding. `checksum` covers every byte of every batch.
    `clock_error_ns`: how far device times may be off the host's clock. `spans`: SPAN rows, what
    the device knows of waits inside its steps, "communication" and "straggler".
    """

    steps: np.ndarray
    checksum: int
    clock_error_ns: int = 0
    spans: np.ndarray = field(default_factory=lambda: np.empty(0, SPAN))


@dataclass(frozen=True)
class Recording:
    """One contender, one seed, one rank. HOST_STEP and STEP rows, one a step, warm-up first.

    `timeline`: what the loader kept of its batches: WORK rows, or rows of `loaders.stats`; None
    from one that keeps nothing. `separable`: False where a step of several ranks doesn't show when
    it waited for them. `cut`: causes whose spans are no part of a step, where a step is all that
    the loop does between two batches. `epochs`: steps with an epoch's first batch, but for the
    very first. `overhead_ns`: CPU time of the loop's thread that writing all
    this took.
    """

    host: np.ndarray
    trace: Trace
    warmup: int
    first_batch_ns: int
    cpu_seconds: float
    cpu_wall_seconds: float
    spans: np.ndarray = field(default_factory=lambda: np.empty(0, SPAN))
    pressure: np.ndarray = field(default_factory=lambda: np.empty(0, PRESSURE))
    timeline: np.ndarray | None = None
    seed: int = 0
    rank: int = 0
    separable: bool = True
    cut: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()
    overhead_ns: int = 0
