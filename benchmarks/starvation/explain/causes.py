"""The causes that the window is split into: their names, what they mean, what people call them."""

from __future__ import annotations

COMPUTE = "compute"
COMMUNICATION, STRAGGLER, NOT_SEPARABLE = "communication", "straggler", "not_separable"
FETCH, PREP, WORKERS = "fetch", "prep", "workers"
ASSEMBLE, QUEUE, INPUT = "assemble", "queue", "input"
H2D, CHECKPOINT, GC, MEMORY, HOST = "h2d", "checkpoint", "gc", "memory", "host"
# No cause: slots of the computed steps that held no token. Beside the sum, never in it.
PADDING = "padding"

# In the order of asking: a moment belongs to the first of them that was going on.
CAUSES = {
    COMPUTE: "the device computes",
    COMMUNICATION: "inside a step: exchanging data with other ranks, nothing else going on",
    STRAGGLER: "inside a step: waiting for a rank that is late",
    NOT_SEPARABLE: "a step of several ranks that shows nothing of its inside: computing or waiting",
    FETCH: "waiting for bytes that were asked for",
    PREP: "bytes are there, samples are being made of them (tokenizing, decoding)",
    WORKERS: "no worker had begun the batch, or one worker is slower than the others",
    ASSEMBLE: "samples are there, the batch is being made",
    QUEUE: "the batch is made, on its way to the loop",
    INPUT: "waiting in next() for a reason the loader does not tell",
    H2D: "the batch is handed to the device and travels there",
    CHECKPOINT: "saving a checkpoint, or what else the loop marked as such",
    GC: "Python collects garbage",
    MEMORY: "memory is short: pages swapped in, or the device's allocator tries again",
    HOST: "anything else the host does between steps: launching, logging, Python",
}
IN_STEP = (COMMUNICATION, STRAGGLER, NOT_SEPARABLE)
# What the loop spends inside next(): the stall rate counts these and nothing else.
INPUT_CAUSES = (FETCH, PREP, WORKERS, ASSEMBLE, QUEUE, INPUT)
BETWEEN_STEPS = (*INPUT_CAUSES, H2D, CHECKPOINT, GC, MEMORY, HOST)
# What a loader that carries no evidence can't be asked for.
TOLD_BY_LOADERS = (FETCH, PREP, WORKERS, ASSEMBLE)

# The three families of causes of starvation, and what each cause is called there.
DATA, NETWORK, HARDWARE = "data pipeline", "communication", "hardware and configuration"
CALLED = {
    COMMUNICATION: (NETWORK, "network bandwidth"),
    STRAGGLER: (NETWORK, "stragglers and barriers"),
    NOT_SEPARABLE: (NETWORK, "compute and communication, not separable"),
    FETCH: (DATA, "I/O latency"),
    PREP: (DATA, "heavy preprocessing"),
    WORKERS: (DATA, "too few workers"),
    ASSEMBLE: (DATA, "batch assembly"),
    QUEUE: (DATA, "hand-over of batches"),
    INPUT: (DATA, "waiting for input"),
    H2D: (HARDWARE, "PCIe"),
    CHECKPOINT: (HARDWARE, "checkpoints"),
    GC: (HARDWARE, "garbage collection"),
    MEMORY: (HARDWARE, "memory pressure"),
    HOST: (HARDWARE, "small batches, launch-bound"),
    PADDING: (DATA, "padding"),
}


def called(cause: str) -> str:
    """What people call `cause`: "fetch" -> "I/O latency"."""
    return CALLED[cause][1] if cause in CALLED else cause
