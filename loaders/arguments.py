"""What a loader can be told: torch's arguments as far as they mean something here, and its own."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from loaders.order import DEFAULT_LANES
from loaders.whole import whole

# What an argument of torch's can't mean over a TokenDataset, and what to do instead.
_REFUSED = {
    "sampler": "the order is Stoker's: shuffle=, seed=, data_parallel_rank= choose it. For an "
    "order of your own use torch.utils.data.DataLoader(dataset, sampler=...)",
    "batch_sampler": "batches are batch_size consecutive samples of Stoker's order. For batches of "
    "your own use torch.utils.data.DataLoader(dataset, batch_sampler=...)",
    "collate_fn": "batches are assembled many at a time, without collating samples. Change the "
    "batch in the training loop, or use torch.utils.data.DataLoader(dataset, collate_fn=...)",
    "generator": "the order depends on seed= and the epoch alone, so that it can be resumed: "
    "give seed= instead",
    "worker_init_fn": "there are no worker processes to initialize: num_workers= are threads that "
    "only read. Leave it out",
    "multiprocessing_context": "there are no worker processes: num_workers= are threads. Leave it "
    "out",
}


@dataclass(frozen=True)
class Own:
    """The arguments that torch's DataLoader does not have; their defaults."""

    seed: int = 0
    lanes: int = DEFAULT_LANES
    max_seq_len: int | None = None
    data_parallel_rank: int | None = None
    data_parallel_size: int | None = None
    data_parallel_mesh: DeviceMesh | None = None
    prefetch_bytes: int | None = None
    stall_warning_s: float = 60.0
    cache_dir: str | os.PathLike[str] | None = None
    cache_bytes: int | None = None
    device: torch.device | str | int | None = None

    def __post_init__(self) -> None:
        least = {"seed": None, "lanes": 1, "max_seq_len": 1, "prefetch_bytes": 0, "cache_bytes": 1}
        for name in (*least, "data_parallel_rank", "data_parallel_size"):
            if (value := getattr(self, name)) is not None or name in ("seed", "lanes"):
                object.__setattr__(self, name, whole(name, value, least.get(name)))


def checked(batch_size: int | None, torchs: dict[str, Any], over: str) -> int:
    """The batch size, if torch's arguments mean something over a TokenDataset or a Mixture.

    Raises:
        ValueError: one does not; the message says what to use.
    """
    for name, advice in _REFUSED.items():
        if torchs[name] is not None:
            raise ValueError(f"{name}= does not go with a {over}: {advice}.")
    if batch_size is None:
        raise ValueError(
            f"batch_size=None does not go with a {over}: a loader yields batches. For single "
            "samples index the dataset, or give batch_size=1."
        )
    batch_size = whole("batch_size", batch_size, 1)
    whole("num_workers", torchs["num_workers"], 0)
    not_negative("timeout", torchs["timeout"])
    factor = torchs["prefetch_factor"]
    if factor is not None:
        whole("prefetch_factor", factor, 1)
    device = torchs["pin_memory_device"]
    if device and torch.device(device).type != "cuda":
        raise ValueError(f"pin_memory_device={device!r}: memory is pinned for CUDA devices only")
    return batch_size


def not_negative(name: str, number: float) -> float:
    """The number; ValueError if it is below 0."""
    if number < 0:
        raise ValueError(f"{name} must not be negative: {number}")
    return number
