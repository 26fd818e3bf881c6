"""Units as Ray Data tasks: one each, results as they finish. No token crosses the object store."""

from __future__ import annotations

import pickle
import resource
import time
import traceback
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.connect import quiet_ray_data
from pipelines.plan import Unit
from pipelines.write import Job, TooManyBadRows, run_unit
from shards.errors import StokerError
from shards.receipt import Receipt

# Ray retries a task whose worker died for ever. A Spot fleet may take a node a few times; a unit
# that needs more memory than there is would go round until somebody looks.
_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Outcome:
    """What a task hands back: the receipt of its unit, or what stopped it.

    Attributes:
        bad_rows: the first malformed rows, as text, when there were too many.
        error: one line for people; "" when all went well.
        trace: for whoever mends it, when the error is not the input's.
        seconds, cpu_seconds: that the unit took, by the clock and of CPUs (user and system).
        ended: when, in seconds since 1970 by the worker's clock.
        peak_rss: bytes, of the worker since it began.
    """

    unit: int
    receipt: Receipt | None
    bad_rows: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    ended: float = 0.0
    peak_rss: int = 0


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
    rows = [{"unit": pickle.dumps(unit)} for unit in units]
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
    outcomes = [_run_one(pickle.loads(unit), shared, meter) for unit in batch["unit"]]
    return {"outcome": np.array([pickle.dumps(outcome) for outcome in outcomes], object)}


def _run_one(unit: Unit, job: Job, meter: Any) -> Outcome:
    """Errors are values here: raised, Ray would wrap them in its own words, or try again."""
    import ray

    try:
        if ray.get(meter.begin.remote(unit.number)) > _MOST_ATTEMPTS:
            raise StokerError(
                f"{unit} was begun {_MOST_ATTEMPTS} times and its worker died each time, perhaps "
                "for lack of memory: try a smaller --unit-bytes"
            )
        clock, cpu = time.monotonic(), time.process_time()
        receipt = run_unit(unit, job, partial(_report, meter, unit.number))
        return Outcome(
            unit.number,
            receipt,
            seconds=time.monotonic() - clock,
            cpu_seconds=time.process_time() - cpu,
            ended=time.time(),
            peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
    except TooManyBadRows as error:
        return Outcome(unit.number, None, tuple(map(str, error.rows)), str(error))
    except StokerError as error:
        return Outcome(unit.number, None, error=str(error), trace=traceback.format_exc())
    except Exception as error:
        reason = f"{unit} failed: {type(error).__name__}: {error}"
        return Outcome(unit.number, None, error=reason, trace=traceback.format_exc())


def _report(meter: Any, unit: int, done: int) -> None:
    meter.report.remote(unit, done)
