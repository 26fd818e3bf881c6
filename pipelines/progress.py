"""How far a job is: bytes of input read, also inside a unit, in one bar."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

from tqdm import tqdm

_POLL_S = 0.5
_ASK_S = 10.0


class Meter:
    """Runs as an actor: the most that any attempt of a unit has read; a retry counts once."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}
        self._attempts: dict[int, int] = {}

    def begin(self, units: list[int]) -> list[int]:
        """How often each of these units has been begun, this time included."""
        for unit in units:
            self._attempts[unit] = self._attempts.get(unit, 0) + 1
        return [self._attempts[unit] for unit in units]

    def report(self, unit: int, done: int) -> None:
        self._done[unit] = max(done, self._done.get(unit, 0))

    def read(self) -> int:
        return sum(self._done.values())

    def retries(self) -> int:
        """How often a unit was begun again: its worker had died."""
        return sum(self._attempts.values()) - len(self._attempts)


class Progress:
    """A bar over `total` input bytes, fed by an actor that the tasks report to.

    Args:
        skipped: bytes that an earlier run has done.
        show: whether there is a bar at all.
    """

    def __init__(self, total: int, skipped: int, show: bool) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Where the driver lives: on another node it would take every unit down with that node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        meter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Meter)
        self.meter: Any = meter.options(scheduling_strategy=here).remote()
        self._skipped = skipped
        # A log file takes a line now and then, not ten a second.
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=skipped,
            unit="B",
            unit_scale=True,
            desc="tokenize",
            disable=not show,
            mininterval=0.1 if terminal else 10.0,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_ASK_S)
        if kind is None:
            self._show(int(self._bar.total or 0))
        self._bar.close()

    def retries(self) -> int | None:
        """How often a unit was begun again; None when the actor that knows it doesn't answer."""
        import ray

        try:
            return int(ray.get(self.meter.retries.remote(), timeout=_ASK_S))
        except Exception:
            return None

    def _poll(self) -> None:
        import ray

        while not self._stop.wait(_POLL_S):
            try:
                done = ray.get(self.meter.read.remote(), timeout=_ASK_S)
            except Exception:
                # A bar that stands still is better than a job that ends for its sake.
                continue
            self._show(self._skipped + done)

    def _show(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
