"""Batches on their way to a GPU: on a stream of their own, ahead of the step that needs them.

The loader's memory is page-locked and holds token ids in 32 bits, so half of what int64 would take
goes over the bus; the GPU widens them. Nothing waits for a copy but the stream that uses the batch.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loaders.gather import Batch

# Copies that are under way or done while a step runs.
AHEAD = 2
# What kernels take as int32; all else that is int32 on its way is int64 in the batch.
_INT32 = frozenset({"cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k"})


class Copies(Protocol):
    """Starts the copy of a batch, and hands it over when it is needed."""

    def start(self, batch: Batch) -> Any: ...

    def take(self, copied: Any) -> Batch: ...


@dataclass(frozen=True)
class _Copied:
    batch: Batch
    done: torch.cuda.Event


class CudaCopies:
    """Copies batches to a CUDA device. Used by the thread that takes the batches."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, batch: Batch) -> _Copied:
        """`batch`: in page-locked memory, which torch's allocator keeps until the copy is done."""
        with torch.cuda.stream(self._stream):
            copied = widened(to_device(batch, self._device))
            done = torch.cuda.Event()
            done.record(self._stream)
        return _Copied(copied, done)

    def take(self, copied: _Copied) -> Batch:
        """The batch for the current stream: what is queued on it from now on sees the copy."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied.done)
        for value in copied.batch.values():
            if isinstance(value, torch.Tensor):
                # The memory belongs to the copies' stream: it must not be used again there before
                # the current one is through with what it was asked to do until the batch is freed.
                value.record_stream(current)
        return copied.batch


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """The same keys, tensors on `device`; one tensor under several names is copied once."""
    moved: dict[int, torch.Tensor] = {}
    out: Batch = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            if id(value) not in moved:
                moved[id(value)] = value.to(device, non_blocking=True)
            value = moved[id(value)]
        out[name] = value
    return out


def widened(batch: Batch) -> Batch:
    """int32 tensors as int64, but for those that kernels take as they are."""
    return {
        name: value.long()
        if isinstance(value, torch.Tensor) and value.dtype == torch.int32 and name not in _INT32
        else value
        for name, value in batch.items()
    }


def cuda_device(device: torch.device | str | int | None) -> torch.device | None:
    """The CUDA device that batches go to; None: they stay where they are.

    Raises:
        ValueError: a device that is neither CUDA's nor the CPU.
    """
    if device is None:
        return None
    wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if wanted.type not in ("cuda", "cpu"):
        raise ValueError(
            f"device={str(wanted)!r}: batches are copied to CUDA devices only. Leave it out and "
            "move them in the loop: batch.to(...)"
        )
    if wanted.type == "cpu":
        return None
    if not torch.cuda.is_available():
        warnings.warn(
            f"device={str(wanted)!r}, but torch finds no CUDA device: batches stay on the CPU",
            stacklevel=2,
        )
        return None
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    return torch.device("cuda", index)
