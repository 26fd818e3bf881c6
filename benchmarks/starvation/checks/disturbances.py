"""What a loop does between its steps that holds it up, for the positive controls: it saves, it
collects garbage.

Both last as long on a fast machine as on a slow one, so that the fault is no smaller there.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

SAVE_S, SAVE_EVERY, SAVED_FLOATS = 0.3, 4, 2**18
OBJECTS, COLLECT_S = 50_000, 0.06


@dataclass(frozen=True)
class Saving:
    """Writes tensors to disk after every `SAVE_EVERY` steps, again and again for `SAVE_S`."""

    path: Path

    def __call__(self, number: int) -> None:
        """Behind step `number`."""
        until = time.perf_counter() + SAVE_S
        while number % SAVE_EVERY == 0 and time.perf_counter() < until:
            with self.path.open("wb") as file:
                torch.save({"weights": torch.zeros(SAVED_FLOATS)}, file)
                file.flush()
                os.fsync(file.fileno())


class Collecting:
    """Makes a little garbage in cycles and collects it, again and again for `COLLECT_S`."""

    def __init__(self) -> None:
        self._alive: list[list[object]] = []

    def __call__(self, number: int) -> None:
        """Behind step `number`."""
        if not self._alive:
            self._alive = [[] for _ in range(OBJECTS)]
        until = time.perf_counter() + COLLECT_S
        while time.perf_counter() < until:
            cycle: list[object] = []
            cycle.append(cycle)
            del cycle
            gc.collect()
