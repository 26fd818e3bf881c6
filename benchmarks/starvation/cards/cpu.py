"""A real training step on the host's CPU: nothing is emulated, and nothing runs beside the loop."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.starvation.cards.accelerator import Batch, real_tokens
from benchmarks.starvation.cards.training import TrainingStep
from benchmarks.starvation.explain.causes import COMMUNICATION
from benchmarks.starvation.loop.recording import SPAN, STEP, Trace
from benchmarks.starvation.loop.world import World


class CpuAccelerator:
    """Steps of a Llama by torch on the CPU, in the thread that calls `submit`.

    Loader and step share the cores, and no batch is copied. With several ranks a span tells how
    long each waited for the gradients of the others.
    """

    emulated = False

    def __init__(
        self,
        model: str,
        vocabulary: int,
        world: World | None = None,
        *,
        checkpointing: bool = False,
    ) -> None:
        world = world or World()
        device = torch.device("cpu")
        self.training = TrainingStep(model, vocabulary, device, world, checkpointing=checkpointing)
        self.training.arrived = self._arrive
        ranks = "" if world.size == 1 else f"{world.size} ranks of "
        self.title = f"{ranks}CPU, {self.training.title}"
        self._arrived = 0
        self._begin()

    def submit(self, batch: Batch) -> int:
        """See `Accelerator.submit`; the step is over when it returns."""
        handed = time.perf_counter_ns()
        self._arrived = 0
        self.loss = float(self.training.backward(batch))
        exchanged = time.perf_counter_ns()
        self.training.update()
        end = time.perf_counter_ns()
        if self._arrived:
            self._spans.append((COMMUNICATION, self._arrived, exchanged))
        size = sum(tensor.nbytes for tensor in batch.values())
        slots, tokens = batch["input_ids"].numel(), real_tokens(batch)
        self._checksum += sum(int(tensor.sum()) for tensor in batch.values())
        self._rows.append((handed, handed, handed, end, 0, slots, tokens, size))
        return handed

    def finish(self) -> Trace:
        """See `Accelerator.finish`."""
        spans = np.array(self._spans, dtype=SPAN)
        trace = Trace(np.array(self._rows, dtype=STEP), self._checksum & (2**64 - 1), spans=spans)
        self._begin()
        return trace

    def close(self) -> None:
        """See `Accelerator.close`."""

    def _begin(self) -> None:
        self._rows: list[tuple[int, ...]] = []
        self._spans: list[tuple[str, int, int]] = []
        self._checksum = 0

    def _arrive(self) -> None:
        self._arrived = time.perf_counter_ns()
