"""What recorded times and a loader's own rows say about the loop's waits, as spans by cause."""

from __future__ import annotations

import numpy as np

from benchmarks.starvation.attribution import Attribution, Intervals, attribute, intervals
from benchmarks.starvation.causes import ASSEMBLE, FETCH, H2D, INPUT, QUEUE
from benchmarks.starvation.recording import Recording


def explain(recording: Recording, timeline: np.ndarray | None) -> Attribution:
    """The window of `recording` by cause; `timeline`: the loader's own evidence, if it has any."""
    steps, host = recording.trace.steps, recording.host
    window = (int(steps["end"][recording.warmup - 1]), int(steps["end"][-1]))
    spans = [
        *input_spans(host, timeline),
        (H2D, intervals(host["got"], host["handed"])),
        (H2D, intervals(steps["copy_start"], steps["copy_end"])),
    ]
    return attribute(window, intervals(steps["start"], steps["end"]), spans)


def input_spans(host: np.ndarray, timeline: np.ndarray | None) -> list[tuple[str, Intervals]]:
    """The loop's waits in next(), split by what the batch it waited for was going through.

    `timeline` has a row a batch with `asked`, `arrived`, `assembled` and `delivered`, in
    nanoseconds of the host's clock; the row of a wait is the one delivered during it.
    """
    waits = intervals(host["asked"], host["got"])
    spans: list[tuple[str, Intervals]] = []
    if timeline is not None and len(timeline):
        rows = timeline[np.argsort(timeline["delivered"], kind="stable")]
        at = np.searchsorted(rows["delivered"], waits[:, 1], side="right") - 1
        known = (at >= 0) & (rows["delivered"][np.maximum(at, 0)] >= waits[:, 0])
        wait, row = waits[known], rows[at[known]]
        for cause, since, until in (
            (FETCH, row["asked"], row["arrived"]),
            (ASSEMBLE, row["arrived"], row["assembled"]),
            (QUEUE, row["assembled"], wait[:, 1]),
        ):
            spans.append(
                (cause, intervals(np.maximum(since, wait[:, 0]), np.minimum(until, wait[:, 1])))
            )
    return [*spans, (INPUT, waits)]
