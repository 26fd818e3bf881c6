"""Hugging Face datasets: an Arrow folder with the torch format, in torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from load_contract import Contender, serve
from load_memmap import Shuffled
from torch.utils.data import DataLoader

_ROWS = 4096


class Datasets(Contender):
    """With the option `workers`."""

    package = "datasets"

    def prepare(self, output: Path) -> None:
        """A row of int32 a sample, as grouped texts are usually saved."""
        task = self.task
        tokens = np.memmap(task.flat, dtype=task.dtype, mode="r", shape=(task.tokens,))
        rows = tokens.reshape(-1, task.seq_len)
        kind = pa.list_(pa.int32(), task.seq_len)

        def pieces() -> Iterator[pa.RecordBatch]:
            for start in range(0, len(rows), _ROWS):
                flat = pa.array(rows[start : start + _ROWS].reshape(-1).astype(np.int32))
                column = pa.FixedSizeListArray.from_arrays(flat, task.seq_len)
                yield pa.record_batch([column], schema=pa.schema([("input_ids", kind)]))

        features = Features({"input_ids": List(Value("int32"), length=task.seq_len)})
        Dataset(pa.table(pa.Table.from_batches(pieces())).cast(features.arrow_schema)).save_to_disk(
            str(output)
        )

    def state(self, at: float) -> dict[str, Any]:
        """How many rows to leave out: the loader is torch's, and has no state."""
        return {"rows": int(at * self.task.samples) // self.task.rows * self.task.rows}

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        task = self.task
        self.loader: Any = DataLoader(
            load_from_disk(task.data).with_format("torch"),
            task.rows,
            sampler=Shuffled(task.samples, state["rows"] if state else 0),
            num_workers=task.options["workers"],
        )

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """See `Contender.epoch`."""
        return iter(self.loader)


if __name__ == "__main__":
    serve(Datasets)
