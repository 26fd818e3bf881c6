"""MosaicML: shards by MDSWriter, then StreamingDataset and StreamingDataLoader, as its docs say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load_contract import Contender, serve
from no_torchvision import without_torchvision

without_torchvision()

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

# Its default.
SEED = 9176


class MosaicML(Contender):
    """With the option `workers`."""

    package = "mosaicml-streaming"

    def prepare(self, output: Path) -> None:
        """A row of int32 a sample, in shards of its own default size."""
        task = self.task
        tokens = np.memmap(task.flat, dtype=task.dtype, mode="r", shape=(task.tokens,))
        columns = {"tokens": f"ndarray:int32:{task.seq_len}"}
        with MDSWriter(out=str(output), columns=columns) as writer:
            for row in tokens.reshape(-1, task.seq_len):
                writer.write({"tokens": row.astype(np.int32)})

    def state(self, at: float) -> dict[str, Any]:
        """By its own arithmetic, which reads one batch."""
        self.open(None)
        next(self.epoch())
        taken = int(at * self.task.samples) // self.task.rows * self.task.rows
        return dict(self.dataset.state_dict(taken, from_beginning=True))

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        task = self.task
        local = Path(task.folder) / "local"
        remote = task.data if task.data.startswith("s3://") else None
        local.mkdir(exist_ok=True)
        if remote is None:
            # Two processes may not open one folder.
            for file in Path(task.data).iterdir():
                link = local / file.name
                if not link.exists():
                    link.symlink_to(file)
        self.dataset: Any = StreamingDataset(
            local=str(local),
            remote=remote,
            shuffle=True,
            shuffle_seed=task.options.get("seed", SEED),
            batch_size=task.rows,
        )
        self.loader: Any = StreamingDataLoader(
            self.dataset, batch_size=task.rows, num_workers=task.options["workers"]
        )
        if state is not None:
            self.loader.load_state_dict(state)

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """See `Contender.epoch`."""
        return iter(self.loader)

    def ids(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """See `Contender.ids`."""
        return batch["tokens"]


if __name__ == "__main__":
    serve(MosaicML)
