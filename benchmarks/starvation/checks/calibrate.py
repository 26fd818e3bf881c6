"""The same contenders before an emulated card that has a real one's times: does it say the same?

Step, link and launch are taken from a real run's steps; what is compared follows from the loaders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.starvation.cards.accelerator import EmulatedAccelerator, Node
from benchmarks.starvation.cards.profiles import Profile
from benchmarks.starvation.checks.calibration import Calibration, Pair
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.trial import measure

NS = 1e9
# A card whose memory takes a nanosecond a parameter: `Profile.fixed_ns` is then their number.
A_NANOSECOND = 24e9
# Copies on a host's CPU take no time: a link on which nothing waits.
NO_LINK = 1e13


def calibrate(
    report: Mapping[str, Any], steps: pa.Table, contenders: Sequence[Contender], plan: Plan
) -> Calibration:
    """Emulate the card of `report` and `steps`, both of a real run, and feed it once each.

    `contenders`: those of the run that are to be compared; others of the same name are not there.
    """
    profile, node = card_of(report["accelerator"], steps)
    real = {row["name"]: row for row in report["results"]}
    pairs = []
    with closing(EmulatedAccelerator(profile, node=node)) as device:
        for contender in contenders:
            if contender.name in real:
                result, _ = measure(contender, device, plan, seeds=1)
                pairs.append(pair_of(real[contender.name], result))
    date = report["environment"]["date"].partition(" ")[0]
    return Calibration(report["accelerator"], date, tuple(pairs))


def pair_of(real: Mapping[str, Any], emulated: Result) -> Pair:
    """The two figures of a result of a real run's document and of the emulated one."""
    there, here = real["estimates"], emulated.estimates
    return Pair(
        emulated.name,
        there["au"]["value"],
        here["au"].value,
        there["gap_p99_ms"]["value"],
        here["gap_p99_ms"].value,
    )


def card_of(title: str, steps: pa.Table) -> tuple[Profile, Node]:
    """The card that takes as long as these measured steps took, and the node around it.

    A step is `a + b x slots` by least squares, where batches differ in size. A launch is the
    shortest tenth's: longer ones waited for the device's queue.
    """
    rows = steps.filter(pc.field("measured"))
    slots = _column(rows, "slots")
    took = _column(rows, "end_ns") - _column(rows, "start_ns")
    fixed, each = 0.0, float(np.median(took / slots))
    if len(np.unique(slots)) > 1:
        slope, offset = np.polyfit(slots, took, 1)
        if slope > 0 and offset > 0:
            fixed, each = float(offset), float(slope)
    usual = int(np.median(slots))
    copied = _column(rows, "copy_end_ns") - _column(rows, "copy_start_ns")
    size = _column(rows, "bytes")
    launched = _column(rows, "submitted_ns") - _column(rows, "handed_ns")
    # On a CPU the step is over when it was launched: its time is in `took` already.
    launch = float(np.percentile(launched, 10)) if np.any(copied > 0) else 0.0
    profile = Profile(
        name="measured",
        title=title,
        source="the steps of a real run",
        step_s=(fixed + each * usual) / NS,
        batch_size=1,
        seq_len=usual,
        parameters=fixed,
        memory_bytes_per_s=A_NANOSECOND,
        h2d_bytes_per_s=(
            NS * float(np.median(size[copied > 0] / copied[copied > 0]))
            if np.any(copied > 0)
            else NO_LINK
        ),
        model="measured",
    )
    return profile, Node(host_busy_ms=launch / 1e6)


def _column(rows: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = rows[name].to_numpy().astype(np.float64)
    return values
