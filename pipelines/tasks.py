"""Units as Ray Data tasks, results as they finish. No token crosses the object store."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.audit import Draw
from pipelines.behind import Behind
from pipelines.chunks import into_tasks
from pipelines.connect import quiet_ray_data
from pipelines.plan import Unit
from pipelines.resident import peak_bytes
from pipelines.write import Job, TooManyBadRows, start_unit
from shards.errors import StokerError
from shards.patience import long_patience
from shards.receipt import Receipt

# Ray retries a task whose worker died for ever. A Spot fleet may take a node a few times; a unit
# that needs more memory than there is would go round until somebody looks.
_MOST_ATTEMPTS = 10
# Its nodes are started when tasks wait; how many is not known yet.
_SLOTS_OF_AN_EMPTY_CLUSTER = 64


@dataclass(frozen=True)
class Outcome:
    """What a task hands back: the receipt of its unit, or what stopped it.

    Attributes:
        bad_rows: the first malformed rows, as text, when there were too many.
        error: one line for people; "" when all went well.
        trace: for whoever mends it, when the error is not the input's.
        seconds, cpu_seconds: that the unit took, by the clock and of CPUs (user and system).
        ended: when, in seconds since 1970 by the worker's clock.
        task_began: likewise, when the task that it was a part of began.
        peak_rss: bytes, of the worker since it began.
        audited: documents that were encoded again by the reference, and equal.
    """

    unit: int
    receipt: Receipt | None
    bad_rows: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    ended: float = 0.0
    task_began: float = 0.0
    peak_rss: int = 0
    audited: int = 0


def run_units(units: Sequence[Unit], job: Job, meter: Any) -> Generator[Outcome, None, None]:
    """Runs the units on the cluster that Ray is connected to; outcomes in the order they finish.

    Args:
        meter: actor handle that tasks report their bytes to; see `progress.Meter`.

    Raises:
        StokerError: Ray itself failed.
    """
    import ray
    import ray.data

    quiet_ray_data()
    slots = int(ray.cluster_resources().get("CPU", 0)) or _SLOTS_OF_AN_EMPTY_CLUSTER
    rows = [{"units": pickle.dumps(task)} for task in into_tasks(units, slots, job.engine)]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(_run_batch, job=ray.put(job), meter=meter),
        batch_size=None,
        num_cpus=1,
    )
    batches = results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    try:
        with closing(iter(batches)) as stream:
            for batch in stream:
                yield from (pickle.loads(outcome) for outcome in batch["outcome"])
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise StokerError(f"Ray could not run a unit: {reason}") from error


def _run_batch(batch: dict[str, npt.NDArray[Any]], job: Any, meter: Any) -> dict[str, Any]:
    """The task: Ray Data hands over the one row of its block."""
    import ray

    shared: Job = ray.get(job)
    tasks = map(pickle.loads, batch["units"])
    with long_patience():
        outcomes = [outcome for units in tasks for outcome in _run(units, shared, meter)]
    return {"outcome": np.array([pickle.dumps(outcome) for outcome in outcomes], object)}


def _run(units: Sequence[Unit], job: Job, meter: Any) -> Iterator[Outcome]:
    """The units one after the other, each one's last shard written while the next is encoded.

    Ends with the first that fails. Errors are values here: raised, Ray would wrap them in its own
    words, or try again.
    """
    import ray

    attempts = max(ray.get(meter.begin.remote([unit.number for unit in units])))
    lap = _Lap()
    before: tuple[Unit, Future[Receipt], Draw] | None = None
    with Behind() as behind:
        for unit in units:
            draw = Draw(job.plan, unit.number, job.audit)
            begun = _begin(unit, job, behind, meter, attempts, draw)
            if before is not None:
                outcome = lap.outcome(*before)
                yield outcome
                if outcome.receipt is None:
                    return
            before = unit, begun, draw
        if before is not None:
            yield lap.outcome(*before)


def _begin(
    unit: Unit, job: Job, behind: Behind, meter: Any, attempts: int, draw: Draw
) -> Future[Receipt]:
    """`start_unit`, its errors in the future too."""
    try:
        if attempts > _MOST_ATTEMPTS:
            raise StokerError(
                f"{unit} was begun {_MOST_ATTEMPTS} times and its worker died each time, perhaps "
                "for lack of memory: try a smaller --unit-bytes"
            )
        return start_unit(unit, job, behind, partial(_report, meter, unit.number), draw)
    except Exception as error:
        failed: Future[Receipt] = Future()
        failed.set_exception(error)
        return failed


class _Lap:
    """What each of the units of a task took, and what became of it."""

    def __init__(self) -> None:
        self._clock, self._cpu = time.monotonic(), time.process_time()
        self._began = time.time()

    def outcome(self, unit: Unit, begun: Future[Receipt], draw: Draw) -> Outcome:
        """Waits for the unit's receipt."""
        error = begun.exception()
        clock, cpu = time.monotonic(), time.process_time()
        found = Outcome(
            unit.number,
            begun.result() if error is None else None,
            bad_rows=tuple(map(str, error.rows)) if isinstance(error, TooManyBadRows) else (),
            error="" if error is None else _in_words(unit, error),
            trace="" if error is None else "".join(traceback.format_exception(error)),
            seconds=clock - self._clock,
            cpu_seconds=cpu - self._cpu,
            ended=time.time(),
            task_began=self._began,
            audited=len(draw.drawn) if error is None else 0,
            peak_rss=peak_bytes(),
        )
        self._clock, self._cpu = clock, cpu
        return found


def _in_words(unit: Unit, error: BaseException) -> str:
    if isinstance(error, StokerError):
        return str(error)
    return f"{unit} failed: {type(error).__name__}: {error}"


def _report(meter: Any, unit: int, done: int) -> None:
    meter.report.remote(unit, done)
