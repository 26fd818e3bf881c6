"""The limit of local loading: copy and cast ids in memory into a tensor that is used again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from load_contract import Contender, serve


class Ceiling(Contender):
    """Runs of ids in stored order; with the option `labels`, copied a second time."""

    package = "torch"

    def open(self, state: Any) -> None:
        """Reads everything: the clock of this one says nothing about a loader."""
        task = self.task
        tokens = np.fromfile(task.flat, dtype=task.dtype, count=task.tokens)
        self.runs = torch.from_numpy(tokens.reshape(-1, task.rows, task.seq_len))

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """The same dict every time, filled anew."""
        shape = (self.task.rows, self.task.seq_len)
        out = {"input_ids": torch.empty(shape, dtype=torch.int64)}
        labels = self.task.options["labels"]
        if labels:
            out["labels"] = torch.empty_like(out["input_ids"])
        for run in self.runs:
            out["input_ids"].copy_(run)
            if labels:
                out["labels"].copy_(out["input_ids"])
            yield out


if __name__ == "__main__":
    serve(Ceiling)
