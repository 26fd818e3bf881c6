"""The real accelerator: a Llama step on a CUDA device, timed by events, never synchronized by step.

Written for NVIDIA GPUs and not yet run on one: its test is skipped where torch sees no GPU.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.starvation.cards.accelerator import Batch, real_tokens
from benchmarks.starvation.cards.training import TrainingStep
from benchmarks.starvation.explain.causes import COMMUNICATION
from benchmarks.starvation.loop.marks import DeviceClock
from benchmarks.starvation.loop.recording import SPAN, STEP, Trace
from benchmarks.starvation.loop.world import World

# Steps in flight before the host waits for the oldest: its events are then read that many steps
# late.
IN_FLIGHT = 4


@dataclass(frozen=True)
class Marks:
    """CUDA events of one step: the copy on the copy stream, the compute on the default stream.

    `arrived`, `exchanged`: where the compute stream begins to wait for other ranks' gradients, and
    where it goes on; None for one rank alone.
    """

    copy_start: torch.cuda.Event
    copy_end: torch.cuda.Event
    start: torch.cuda.Event
    end: torch.cuda.Event
    arrived: torch.cuda.Event | None
    exchanged: torch.cuda.Event
    slots: int
    tokens: int
    bytes: int


class CudaAccelerator:
    """bf16 Llama with AdamW on the current CUDA device, alone or with the other ranks of `world`.

    Batches are copied on a stream of their own; a step's compute waits for its copy. Device
    times are chained from event to event and laid on the host's clock by a linear fit through
    moments at which the device was synchronized, at the beginning and at the end.
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
        self.device = torch.device("cuda", torch.cuda.current_device())
        world = world or World()
        self.training = TrainingStep(
            model, vocabulary, self.device, world, checkpointing=checkpointing
        )
        self.training.arrived = self._arrive
        ranks = "" if world.size == 1 else f"{world.size} ranks of "
        name = torch.cuda.get_device_name(self.device)
        self.title = f"{ranks}{name}, {self.training.title}"
        self._arrived: torch.cuda.Event | None = None
        self.copies = torch.cuda.Stream(self.device)
        self._begin()

    def submit(self, batch: Batch) -> int:
        """See `Accelerator.submit`."""
        if len(self._pending) >= IN_FLIGHT:
            self._pending[0].end.synchronize()
            self._read()
        compute = torch.cuda.current_stream(self.device)
        copy_start, copy_end, start, end, exchanged = _events(5)
        size = sum(tensor.nbytes for tensor in batch.values())
        with torch.cuda.stream(self.copies):
            copy_start.record(self.copies)
            moved = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            copy_end.record(self.copies)
        handed = time.perf_counter_ns()
        compute.wait_event(copy_end)
        start.record(compute)
        self._arrived = None
        self.training.backward(moved)
        exchanged.record(compute)
        self.training.update()
        end.record(compute)
        for tensor in moved.values():
            # The copy stream owns their memory: it must not be given away while compute reads it.
            tensor.record_stream(compute)
        # On the device, without a synchronization: read back once, when the run is over.
        self._checksum += sum(tensor.sum() for tensor in moved.values())
        self._held.append(batch)
        slots, tokens = batch["input_ids"].numel(), real_tokens(batch)
        waited = (self._arrived, exchanged)
        self._pending.append(Marks(copy_start, copy_end, start, end, *waited, slots, tokens, size))
        return handed

    def finish(self) -> Trace:
        """See `Accelerator.finish`."""
        torch.cuda.synchronize(self.device)
        while self._pending:
            self._read()
        self._clock.align()
        steps = np.array(self._rows, dtype=STEP)
        columns = tuple(STEP.names or ())
        error = 0
        for name in ("copy_start", "copy_end", "start", "end"):
            at = np.array([row[columns.index(name)] for row in self._rows])
            steps[name], error = self._clock.on_host(at)
        spans = np.empty(len(self._waits), dtype=SPAN)
        spans["cause"] = COMMUNICATION
        for name, number in (("start", 0), ("stop", 1)):
            spans[name], _ = self._clock.on_host(np.array([each[number] for each in self._waits]))
        trace = Trace(steps, int(self._checksum) & (2**64 - 1), error, spans)
        self._begin()
        return trace

    def close(self) -> None:
        """See `Accelerator.close`."""
        torch.cuda.synchronize(self.device)

    def _begin(self) -> None:
        torch.cuda.synchronize(self.device)
        self._pending: deque[Marks] = deque()
        self._held: deque[Batch] = deque(maxlen=IN_FLIGHT + 1)
        self._rows: list[tuple[float, ...]] = []
        self._waits: list[tuple[float, float]] = []
        self._checksum = torch.zeros((), dtype=torch.int64, device=self.device)
        self._clock = DeviceClock(self.device)

    def _read(self) -> None:
        """Times of the oldest step, counted from the end of the one before."""
        marks = self._pending.popleft()
        copies = [self._clock.read(event) for event in (marks.copy_start, marks.copy_end)]
        start = self._clock.advance(marks.start)
        if marks.arrived is not None:
            waited = self._clock.read(marks.arrived), self._clock.read(marks.exchanged)
            self._waits.append(waited)
        end = self._clock.advance(marks.end)
        self._rows.append((*copies, start, end, 0, marks.slots, marks.tokens, marks.bytes))

    def _arrive(self) -> None:
        """This rank's backward pass is over on the stream that autograd runs it on."""
        (self._arrived,) = _events(1)
        self._arrived.record()


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event(enable_timing=True) for _ in range(count)]
