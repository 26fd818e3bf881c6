"""litData: optimize() into chunks, then StreamingDataset with TokensLoader, as its docs say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load_contract import Contender, Task, serve

# Items of several rows, so that chunks end where rows do and no token is lost between them.
ROWS_AN_ITEM = 16
# 16 MiB, about what its docs write for a row length of 2,049.
CHUNK_TOKENS = 1 << 22
# Its default.
SEED = 42


def items(start: int, task: Task, step: int) -> Iterator[torch.Tensor]:
    """The ids of one stretch, in tensors of their own."""
    tokens = np.memmap(task.flat, dtype=task.dtype, mode="r", shape=(task.tokens,))
    size = ROWS_AN_ITEM * task.seq_len
    for begin in range(start, min(start + step, task.tokens), size):
        end = min(begin + size, task.tokens)
        yield torch.from_numpy(tokens[begin:end].astype(np.int32))


class LitData(Contender):
    """With the option `workers`."""

    package = "litdata"

    def prepare(self, output: Path) -> None:
        """See `Contender.prepare`."""
        # Its default cache lies in a shared folder, which it empties.
        os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{self.task.folder}/cache"
        os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = f"{self.task.folder}/data"
        from litdata import TokensLoader, optimize

        step = CHUNK_TOKENS // self.task.seq_len * self.task.seq_len
        optimize(
            fn=partial(items, task=self.task, step=step),
            inputs=list(range(0, self.task.tokens, step)),
            output_dir=str(output),
            chunk_size=step,
            num_workers=1,
            item_loader=TokensLoader(),
        )

    def state(self, at: float) -> dict[str, Any]:
        """As saved behind so many batches, which it reads."""
        self.open(None)
        taken = int(at * self.task.samples / self.task.rows)
        for number, _ in enumerate(self.epoch(), 1):
            if number == taken:
                break
        return dict(self.loader.state_dict())

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

        task = self.task
        remote = task.data.startswith("s3://")
        if remote:
            # Its faster client refuses http, which the server on loopback speaks, and takes no
            # option that says otherwise.
            from litdata.streaming import downloader

            downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
        dataset = StreamingDataset(
            task.data,
            cache_dir=f"{task.folder}/cache" if remote else None,
            item_loader=TokensLoader(block_size=task.seq_len),
            shuffle=True,
            seed=task.options.get("seed", SEED),
            # The state names the folder of its cache; here each process has its own.
            force_override_state_dict=remote,
        )
        self.loader: Any = StreamingDataLoader(
            dataset, batch_size=task.rows, num_workers=task.options["workers"]
        )
        if state is not None:
            self.loader.load_state_dict(state)

    def epoch(self) -> Iterator[torch.Tensor]:
        """See `Contender.epoch`."""
        return iter(self.loader)

    def ids(self, batch: torch.Tensor) -> torch.Tensor:
        """A batch is just its ids."""
        return batch


if __name__ == "__main__":
    serve(LitData)
