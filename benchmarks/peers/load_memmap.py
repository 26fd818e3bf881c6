"""torch's DataLoader over a memory map of ids, as many training scripts read them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from load_contract import Contender, serve
from torch.utils.data import DataLoader, Dataset, Sampler

# Epochs of one seed are not those of the next. The generator looks at 32 bits alone.
STRIDE = 1_000_003


class MemoryMap(Dataset[dict[str, torch.Tensor]]):
    """Samples of `seq_len` ids out of a file."""

    def __init__(self, path: str, dtype: str, tokens: int, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))
        self.seq_len = seq_len

    def __len__(self) -> int:
        return len(self.tokens) // self.seq_len

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """{"input_ids", "labels"}: int64 [seq_len], tensors of their own."""
        run = self.tokens[item * self.seq_len : (item + 1) * self.seq_len]
        input_ids = torch.from_numpy(run.astype(np.int64))
        return {"input_ids": input_ids, "labels": input_ids.clone()}


class Shuffled(Sampler[int]):
    """A seeded permutation an epoch. To go on inside one, what was seen is not asked for again."""

    def __init__(self, samples: int, skip: int, seed: int = 0) -> None:
        self.samples, self.skip, self.seed, self.epoch = samples, skip, seed, 0

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        # Nothing happens before the first number: torch makes two of these where there are workers.
        generator = torch.Generator().manual_seed(STRIDE * self.seed + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        skip, self.skip = self.skip, 0
        self.epoch += 1
        yield from order[skip:].tolist()


class Memmap(Contender):
    """With the option `workers`."""

    package = "torch"

    def state(self, at: float) -> dict[str, Any]:
        """How many rows to leave out: a plain loader has no state of its own."""
        return {"rows": int(at * self.task.samples) // self.task.rows * self.task.rows}

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        task = self.task
        self.loader = DataLoader(
            MemoryMap(task.flat, task.dtype, task.tokens, task.seq_len),
            task.rows,
            sampler=Shuffled(
                task.samples, state["rows"] if state else 0, task.options.get("seed", 0)
            ),
            num_workers=task.options["workers"],
        )

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """See `Contender.epoch`."""
        return iter(self.loader)


if __name__ == "__main__":
    serve(Memmap)
