"""Watch a training loop of one's own: how long it waits for its batches, and for what.

with StarvationMonitor(loader) as m:
    for batch in m:
        step(batch)
print(m.report().verdict)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import psutil
import torch
import torch.distributed as dist

from benchmarks.environment import environment
from benchmarks.starvation.cards.accelerator import real_tokens
from benchmarks.starvation.cards.gpu_load import GpuLoad, NoLoad, load_of
from benchmarks.starvation.explain.causes import CHECKPOINT, COMMUNICATION, GC, H2D, HOST
from benchmarks.starvation.explain.merge import merge
from benchmarks.starvation.loop.gather import gather
from benchmarks.starvation.loop.marks import Marks, marks_of
from benchmarks.starvation.loop.measure import warmup_in
from benchmarks.starvation.loop.recording import HOST_STEP, SPAN, STEP, Recording, Trace
from benchmarks.starvation.loop.running import Running, SoFar
from benchmarks.starvation.loop.watching import Watch
from benchmarks.starvation.reports.report import Report
from shards.errors import StokerError

B = TypeVar("B")
MARKABLE = (H2D, CHECKPOINT, COMMUNICATION, HOST)
# About 500 bytes each are kept of so many steps; the loop goes on unwatched after them.
MOST_STEPS = 50_000


class StarvationMonitor(Generic[B]):
    """An iterable over the batches of `loader` that writes down when each was asked for and came.

    A step is what the loop does between getting a batch and asking for the next. On CUDA it is
    timed by events on the current stream, which nobody waits for; elsewhere by the host's clock.
    `span` marks what is no compute. A loader with a `timeline()` as Stoker's has tells what its
    batches waited for; of another the report says what it can't see.

    Args:
        loader: any iterable; iterating over the monitor again begins its next epoch.
        device: what computes; None takes the current CUDA device where there is one, else the CPU.
        name: of the loader, in the report.
        seed: of this run, so that reports of several can be merged.
    """

    def __init__(
        self,
        loader: Iterable[B],
        *,
        device: torch.device | str | None = None,
        name: str = "loader",
        seed: int = 0,
    ) -> None:
        self.loader, self.name, self.seed = loader, name, seed
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._watch, self._running = Watch(), Running()
        self._load: GpuLoad | NoLoad = NoLoad()
        self._leave = ExitStack()
        self._rows: list[tuple[int, int]] = []
        self._sizes: list[tuple[int, int | torch.Tensor, int]] = []
        self._ends: list[int] = []
        self._bounds: list[tuple[int, int]] = []
        self._spans: list[tuple[str, int, int]] = []
        self._host_spans: list[tuple[str, int, int]] = []
        self._asked = self._entered = 0
        self._epochs: list[int] = []
        self._started: int | None = None
        self._marks: Marks | None = None
        # After the block: its marks, its wall and CPU seconds, and the error that ended it.
        self._seen: Marks | None = None
        self._spent = (0.0, 0.0)
        self._stopped: str | None = None
        self._recording: Recording | None = None
        self.overhead_ns = 0

    def __enter__(self) -> Self:
        """Begin to watch.

        Raises:
            StokerError: it was entered before: its record is one.
        """
        if self._entered:
            raise StokerError(
                f"the monitor of {self.name!r} was entered before: make a new one, or loop over it"
                " again inside of one `with` block"
            )
        self._marks = marks_of(self.device)
        self._entered = time.perf_counter_ns()
        self._cpu = _cpu_seconds()
        self._load = self._leave.enter_context(load_of(self.device))
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Watch no more; what was seen is kept."""
        self.end_step()
        self._watch.stop()
        self._leave.close()
        self._spent = self._since_entered()
        self._stopped = kind.__name__ if kind is not None else None
        # Behind an error the device may answer no more: it is waited for when somebody asks.
        self._seen, self._marks = self._marks, None
        if kind is None and self.steps >= 2:
            self._recording = self._recorded()

    def __iter__(self) -> Iterator[B]:
        """The batches of one epoch of the loader.

        Raises:
            StokerError: not inside of the monitor's `with` block.
        """
        if self._marks is None:
            raise StokerError(
                f"the monitor of {self.name!r} watches only inside of its `with` block: write"
                " `with monitor:` around the loop over it"
            )
        return self._epoch()

    def _epoch(self) -> Iterator[B]:
        try:
            if self._rows:
                self._epochs.append(len(self._rows))
            self.ask()
            for batch in self.loader:
                self.begin_step(batch)
                yield batch
                self.end_step()
                self.ask()
        finally:
            self.end_step()
            self._asked = 0

    def __len__(self) -> int:
        """Batches of an epoch, where the loader knows them."""
        return len(self.loader)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        """Steps that are over."""
        return len(self._bounds)

    def so_far(self) -> SoFar:
        """The window up to now, roughly, without its warm-up found; any thread may ask."""
        return self._running.so_far

    @contextmanager
    def span(self, cause: str) -> Iterator[None]:
        """Mark what the loop does inside as `cause`: h2d, checkpoint, communication or host.

        "communication" from this rank's arrival at an exchange to its end: with the other ranks'
        marks the report tells waiting for a late rank from the exchange itself.

        Raises:
            ValueError: another cause.
        """
        if cause not in MARKABLE:
            raise ValueError(f"no span {cause!r}: choose one of {', '.join(MARKABLE)}")
        if self._marks is None or self._full:
            yield
            return
        begin = self._marks.mark()
        try:
            yield
        finally:
            self._spans.append((cause, begin, self._marks.mark()))

    def ask(self) -> None:
        """The loop asks for its next batch; a loop over the monitor does this by itself."""
        self._asked = self._asked or time.perf_counter_ns()

    def worked(self, cause: str) -> None:
        """All since the loop last asked was `cause`, and it asks now: for loops of frameworks."""
        if self._marks is not None and self._asked and not self._full:
            now = time.perf_counter_ns()
            self._host_spans.append((cause, self._asked, now))
            self._asked = now

    def begin_step(self, batch: object) -> None:
        """The loop has got `batch`; likewise."""
        got, worked = time.perf_counter_ns(), time.thread_time_ns()
        if self._marks is None or self._full or self._started is not None:
            return
        self._sizes.append(_sizes(batch))
        self._rows.append((self._asked or got, got))
        self._asked = 0
        self._started = self._marks.mark()
        self.overhead_ns += time.thread_time_ns() - worked

    def end_step(self) -> None:
        """What is to be done with the batch is done, or enqueued; likewise."""
        if self._started is None or self._marks is None:
            return
        over, worked = time.perf_counter_ns(), time.thread_time_ns()
        self._bounds.append((self._started, self._marks.mark()))
        self._started = None
        self._ends.append(over)
        self._watch.step(len(self._bounds) - 1)
        self._running.add(self._marks.known, self._bounds, self._rows, self._spans)
        self.overhead_ns += time.thread_time_ns() - worked

    def recording(self) -> Recording:
        """What was seen by this rank; of a loop that raised, what was seen until then.

        Raises:
            StokerError: the `with` block isn't over or was never entered, or less than two steps
                were seen.
        """
        if missing := self._missing():
            raise StokerError(f"the monitor of {self.name!r} {missing}")
        if self._recording is None:
            self._recording = self._recorded()
        return self._recording

    def _missing(self) -> str | None:
        """What keeps this monitor from a report, in words."""
        if not self._entered:
            return "was never entered: write `with monitor:` around the loop over it"
        if self._marks is not None:
            return (
                "is still watching: a report is there once its `with` block is over, and so_far()"
                " at any moment"
            )
        if self.steps >= 2:
            return None
        ended = f" until the loop raised {self._stopped}" if self._stopped else ""
        return f"saw {self.steps} steps{ended}: a report needs two at least"

    def report(self) -> Report:
        """What was seen by all ranks; with `torch.distributed` initialized every rank calls this.

        If this rank's loop raised, its `setup` says so: the step in which it did is the last one.

        Raises:
            StokerError: see `recording`.
        """
        ranks = gather(self.recording())
        result = merge("loader", self.name, "watched in a loop of its own", ranks)
        result = replace(result, counters={**result.counters, **self._load.counters()})
        cuda = self.device.type == "cuda"
        where = torch.cuda.get_device_name(self.device) if cuda else "this host's CPU"
        return Report(
            accelerator=where,
            emulated=False,
            results=(result,),
            left_out={},
            device={
                "device": where,
                "timed by": "CUDA events" if cuda else "the host's clock",
                **self._load.facts,
            },
            data={},
            setup=self._setup(result.figures.steps, len(ranks)),
            environment=environment(),
            cards=len(ranks),
            calibration="measured, not emulated",
        )

    def _setup(self, measured: int, ranks: int) -> dict[str, str]:
        said = {"steps": str(measured), "ranks": str(ranks)}
        if self._stopped:
            said["cut short"] = f"by {self._stopped} after {self.steps} steps"
        return said

    @property
    def _full(self) -> bool:
        return len(self._rows) >= MOST_STEPS and self._started is None

    def _since_entered(self) -> tuple[float, float]:
        """Wall and CPU seconds."""
        return (time.perf_counter_ns() - self._entered) / 1e9, _cpu_seconds() - self._cpu

    def _recorded(self) -> Recording:
        assert self._seen is not None
        wall, cpu = self._spent
        times, error = self._seen.finish()
        steps = np.zeros(len(self._bounds), dtype=STEP)
        host = np.zeros(len(steps), dtype=HOST_STEP)
        host["asked"], host["got"] = np.array(self._rows, dtype=np.int64).T
        host["handed"], host["submitted"] = host["got"], self._ends
        bounds = np.array(self._bounds)
        steps["start"], steps["end"] = times[bounds[:, 0]], times[bounds[:, 1]]
        # No copy that is known of.
        steps["copy_start"] = steps["copy_end"] = steps["start"]
        for name, column in zip(
            ("slots", "tokens", "bytes"), zip(*self._sizes, strict=True), strict=True
        ):
            steps[name] = [int(value) for value in column]
        marked = [(cause, int(times[a]), int(times[b])) for cause, a, b in self._spans]
        marked += self._host_spans
        on_host = self.device.type != "cuda"
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        timeline = getattr(self.loader, "timeline", None)
        return Recording(
            host=host,
            trace=Trace(steps, 0, error),
            warmup=min(warmup_in(np.diff(steps["end"])), len(steps) - 1),
            first_batch_ns=self._rows[0][1] - self._rows[0][0],
            cpu_seconds=cpu,
            cpu_wall_seconds=wall,
            spans=np.concatenate([np.array(marked, dtype=SPAN), self._watch.spans]),
            pressure=self._watch.pressure,
            timeline=timeline() if callable(timeline) else None,
            seed=self.seed,
            separable=ranks == 1 or any(cause == COMMUNICATION for cause, *_ in marked),
            # A device goes on computing while the host collects garbage.
            cut=(H2D, CHECKPOINT, HOST, GC) if on_host else (H2D, CHECKPOINT, HOST),
            epochs=tuple(each for each in self._epochs if each < len(steps)),
            overhead_ns=self.overhead_ns,
        )


def _sizes(batch: Any) -> tuple[int, int | torch.Tensor, int]:
    """(slots, tokens, bytes) of `batch`; a count on a device stays there, to be read at the end.

    A batch without `input_ids` counts the rows of its first tensor.
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch
    parts = [parts] if isinstance(parts, torch.Tensor) else parts
    if not isinstance(parts, Iterable):
        return 1, 1, 0
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), torch.Tensor):
        rows = len(tensors[0]) if tensors and tensors[0].ndim else 1
        return rows, rows, size
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if ids.is_cuda:
        return ids.numel(), ids.numel() if mask is None else mask.count_nonzero(), size
    known = mask is not None or "labels" in batch
    return ids.numel(), real_tokens(batch) if known else ids.numel(), size


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
