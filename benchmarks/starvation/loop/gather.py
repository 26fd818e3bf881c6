"""Recordings of all ranks of a `torch.distributed` run, on every rank and on one clock.

They travel as arrays and JSON in tensors: nothing that comes from another process is executed.
"""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.starvation.loop.recording import Recording, Trace

ROUNDS = 9
SCALARS = (
    *("warmup", "first_batch_ns", "cpu_seconds", "cpu_wall_seconds"),
    *("seed", "rank", "separable", "cut", "epochs", "overhead_ns"),
)
NO_TIMES = ("step", "batch", "worker", "overshoot", "slots", "tokens", "bytes", "waited")


def gather(recording: Recording) -> list[Recording]:
    """The recordings of all ranks, in their order, on rank 0's clock; every rank calls it.

    Alone where `torch.distributed` is not initialized.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [recording]
    recording = replace(recording, rank=dist.get_rank())
    offsets, error = clock_offsets()
    everyone = [decode(each) for each in _exchange(encode(recording))]
    return [
        _doubted(shifted(each, -offset), error)
        for each, offset in zip(everyone, offsets, strict=True)
    ]


def clock_offsets() -> tuple[list[int], int]:
    """How far each rank's clock is ahead of rank 0's, ns, and how far that may be off.

    Ranks of one machine have one clock. Else all leave barriers at about the same time.
    """
    boots = _exchange(_boot_id().encode())
    if len(set(boots)) == 1 and boots[0]:
        return [0] * len(boots), 0
    times = np.empty(ROUNDS, dtype=np.int64)
    for number in range(ROUNDS):
        dist.barrier()
        times[number] = time.perf_counter_ns()
    everyone = np.stack([np.frombuffer(each, np.int64) for each in _exchange(times.tobytes())])
    ahead = everyone - everyone[0]
    offsets = np.median(ahead, axis=1).astype(np.int64)
    return offsets.tolist(), int(np.median(np.abs(ahead - offsets[:, None])))


def encode(recording: Recording) -> bytes:
    """`recording` as an .npz file without objects in it."""
    arrays = {
        "host": recording.host,
        "steps": recording.trace.steps,
        "waits": recording.trace.spans,
        "spans": recording.spans,
        "pressure": recording.pressure,
    }
    if recording.timeline is not None:
        arrays["timeline"] = recording.timeline
    words = {name: getattr(recording, name) for name in SCALARS}
    words |= {"checksum": recording.trace.checksum, "error": recording.trace.clock_error_ns}
    arrays["words"] = np.frombuffer(json.dumps(words, default=int).encode(), dtype=np.uint8)
    into = io.BytesIO()
    np.savez(into, allow_pickle=False, **arrays)
    return into.getvalue()


def decode(data: bytes) -> Recording:
    """What `encode` made."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    words = json.loads(arrays["words"].tobytes())
    trace = Trace(arrays["steps"], words.pop("checksum"), words.pop("error"), arrays["waits"])
    return Recording(
        host=arrays["host"],
        trace=trace,
        spans=arrays["spans"],
        pressure=arrays["pressure"],
        timeline=arrays.get("timeline"),
        **(words | {name: tuple(words[name]) for name in ("cut", "epochs")}),
    )


def shifted(recording: Recording, by: int) -> Recording:
    """`recording` with all of its times `by` nanoseconds later."""
    trace = replace(
        recording.trace,
        steps=_later(recording.trace.steps, by),
        spans=_later(recording.trace.spans, by),
    )
    timeline = recording.timeline
    return replace(
        recording,
        host=_later(recording.host, by),
        trace=trace,
        spans=_later(recording.spans, by),
        timeline=None if timeline is None else _later(timeline, by),
    )


def _later(rows: np.ndarray, by: int) -> np.ndarray:
    rows = rows.copy()
    for name in rows.dtype.names or ():
        if name not in NO_TIMES and rows.dtype[name].kind == "i":
            rows[name] += by
    return rows


def _doubted(recording: Recording, error: int) -> Recording:
    trace = recording.trace
    return replace(recording, trace=replace(trace, clock_error_ns=max(error, trace.clock_error_ns)))


def _exchange(data: bytes) -> list[bytes]:
    """Every rank's bytes, in the order of ranks."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    size = torch.tensor([len(data)], dtype=torch.int64, device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    lengths = [int(each) for each in sizes]
    padded = np.zeros(max(1, *lengths), dtype=np.uint8)
    padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    own = torch.from_numpy(padded).to(device)
    everyone = [torch.zeros_like(own) for _ in lengths]
    dist.all_gather(everyone, own)
    return [
        each.cpu().numpy()[:length].tobytes()
        for each, length in zip(everyone, lengths, strict=True)
    ]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
