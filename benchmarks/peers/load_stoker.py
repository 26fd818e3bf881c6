"""Stoker's loader, in its own venv: a split kept in memory, or streamed through less memory."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from load_contract import Contender, Task, serve

from loaders import TokenDataLoader, TokenDataset


class Stoker(Contender):
    """Options: `repeat` (epochs without a gap between them), `prefetch_bytes`, `lanes`."""

    package = "stoker"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.options = dict(task.options)
        self.repeat = self.options.pop("repeat", False)

    def state(self, at: float) -> dict[str, Any]:
        """By `skip`, which reads nothing."""
        self.open(None)
        self.loader.skip(int(at * len(self.loader)))
        state: dict[str, Any] = self.loader.state_dict()
        return state

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        task = self.task
        dataset = TokenDataset(task.data, task.seq_len)
        # What loaders.DataLoader makes of a TokenDataset.
        self.loader = TokenDataLoader(dataset, task.rows, shuffle=True, **self.options)
        if state is not None:
            self.loader.load_state_dict(state)
        if self.repeat:
            self.endless = self.loader.repeat()

    def epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        """See `Contender.epoch`."""
        if self.repeat:
            return islice(self.endless, len(self.loader))
        return iter(self.loader)


if __name__ == "__main__":
    serve(Stoker)
