"""s3torchconnector's own datasets over objects of raw ids, in torch's DataLoader.

It knows objects, not tokens: an object is read whole and cut into rows. It has no state: a run goes
on by a sampler that leaves whole objects out (map style), or by reading and dropping (iterable).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load_contract import Contender, serve
from load_memmap import Shuffled
from s3torchconnector import (
    S3ClientConfig,
    S3IterableDataset,
    S3MapDataset,
    S3Reader,
    S3ReaderConstructor,
)
from torch.utils.data import DataLoader

OBJECT_BYTES = 8 << 20


def rows_of(reader: S3Reader, dtype: str, seq_len: int) -> torch.Tensor:
    """All rows of an object: int64 [rows, seq_len]."""
    ids = np.frombuffer(reader.read(), dtype=dtype).astype(np.int64)
    return torch.from_numpy(ids.reshape(-1, seq_len))


class Connector(Contender):
    """Options: `style` ("iterable" or "map"), `workers`."""

    package = "s3torchconnector"

    @property
    def object_batches(self) -> int:
        """Batches in an object."""
        task = self.task
        wanted = OBJECT_BYTES // np.dtype(task.dtype).itemsize // (task.rows * task.seq_len)
        return max(1, int(wanted))

    @property
    def objects(self) -> list[str]:
        """By name: the benchmark's server gives no etags, without which it refuses a listing."""
        batches = self.task.samples // self.task.rows
        return [
            f"{self.task.data}/{number:06}.bin"
            for number in range(-(-batches // self.object_batches))
        ]

    def prepare(self, output: Path) -> None:
        """Objects of whole batches, raw ids."""
        task = self.task
        tokens = np.memmap(task.flat, dtype=task.dtype, mode="r", shape=(task.tokens,))
        step = self.object_batches * task.rows * task.seq_len
        for uri, start in zip(self.objects, range(0, task.tokens, step), strict=True):
            tokens[start : start + step].tofile(output / uri.rpartition("/")[2])

    def state(self, at: float) -> dict[str, Any]:
        """How many batches to leave out."""
        return {"batches": int(at * self.task.samples / self.task.rows)}

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        task, options = self.task, self.task.options
        common: dict[str, Any] = {
            "region": os.environ["AWS_REGION"],
            "endpoint": os.environ.get("AWS_ENDPOINT_URL"),
            "transform": partial(rows_of, dtype=task.dtype, seq_len=task.seq_len),
            "s3client_config": S3ClientConfig(force_path_style=True),
            "reader_constructor": S3ReaderConstructor.sequential(),
        }
        self.skip = state["batches"] if state else 0
        sampler = None
        if options["style"] == "map":
            dataset = S3MapDataset.from_objects(self.objects, **common)
            objects, self.skip = divmod(self.skip, self.object_batches)
            sampler = Shuffled(len(dataset), objects)
        else:
            dataset = S3IterableDataset.from_objects(self.objects, enable_sharding=True, **common)
        workers = options["workers"]
        self.loader: Any = DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            # Forking beside its threads is what its docs warn of.
            multiprocessing_context="spawn" if workers else None,
        )

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches out of objects, in order."""
        skip, self.skip = self.skip, 0
        return islice(self._batches(), skip, None)

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows in self.loader:
            for batch in rows.split(self.task.rows):
                yield {"input_ids": batch}


if __name__ == "__main__":
    serve(Connector)
