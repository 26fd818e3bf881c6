"""What recorded times and a loader's own rows say about a loop, as spans by cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.starvation.explain.attribution import (
    Attribution,
    Intervals,
    attribute,
    intervals,
    subtract,
    union,
)
from benchmarks.starvation.explain.causes import (
    ASSEMBLE,
    CHECKPOINT,
    COMMUNICATION,
    FETCH,
    GC,
    H2D,
    HOST,
    INPUT,
    MEMORY,
    NOT_SEPARABLE,
    PREP,
    QUEUE,
    STRAGGLER,
    TOLD_BY_LOADERS,
    WORKERS,
)
from benchmarks.starvation.loop.recording import WORK, Recording

Spans = list[tuple[str, Intervals]]

# A worker whose batches take this much longer than the others' is the reason for what they exceed.
SLOW = 1.5
# What a loop may mark, in the order of asking, beside waits for other ranks.
MARKED = (H2D, CHECKPOINT, GC, MEMORY, HOST)


@dataclass(frozen=True)
class Claims:
    """What `attribute` and `split` take: ends of steps, their compute, spans between and inside."""

    edges: np.ndarray
    busy: Intervals
    spans: Spans
    inside: Spans


def explain(recording: Recording) -> Attribution:
    """The window of `recording` by cause, from the end of its last warm-up step to its end."""
    said = claims(recording)
    parts = attribute(said.edges, said.busy, said.spans, said.inside)
    return _short_of_memory(recording, parts)


def claims(recording: Recording) -> Claims:
    """All that `recording` says of its measured steps, the causes in the order of asking."""
    steps, host = recording.trace.steps, recording.host
    busy = intervals(steps["start"], steps["end"])
    for cause in recording.cut:
        busy = subtract(busy, _marked(recording, cause))
    waits = [(cause, _marked(recording, cause)) for cause in (COMMUNICATION, STRAGGLER)]
    spans = [
        *input_spans(host, recording.timeline),
        (H2D, intervals(host["got"], host["handed"])),
        (H2D, intervals(steps["copy_start"], steps["copy_end"])),
        *((cause, _marked(recording, cause)) for cause in MARKED[:-1]),
        # Waiting for other ranks between steps is no less of it.
        *waits,
    ]
    inside = waits if recording.separable else [*waits, (NOT_SEPARABLE, busy)]
    return Claims(steps["end"][recording.warmup - 1 :], busy, spans, inside)


def cannot_see(timeline: np.ndarray | None) -> tuple[str, ...]:
    """The causes that this evidence can't tell from each other: their time is all `input`."""
    return () if timeline is not None and len(timeline) else TOLD_BY_LOADERS


def input_spans(host: np.ndarray, timeline: np.ndarray | None) -> Spans:
    """The loop's waits in next(), split by what the batch it waited for was going through.

    `timeline`: WORK rows of a loader with workers; or a row a batch with `asked`, `arrived`,
    `assembled` and `delivered`; or None.
    """
    waits = intervals(host["asked"], host["got"])
    if timeline is None or not len(timeline):
        return [(INPUT, waits)]
    told = _by_workers if timeline.dtype == WORK else _by_stations
    return [*told(waits, timeline), (INPUT, waits)]


def _by_stations(waits: Intervals, timeline: np.ndarray) -> Spans:
    """The row of a wait is the one delivered during it."""
    rows = timeline[np.argsort(timeline["delivered"], kind="stable")]
    at = np.searchsorted(rows["delivered"], waits[:, 1], side="right") - 1
    known = (at >= 0) & (rows["delivered"][np.maximum(at, 0)] >= waits[:, 0])
    wait, row = waits[known], rows[at[known]]
    return [
        (FETCH, _clipped(row["asked"], row["arrived"], wait)),
        (ASSEMBLE, _clipped(row["arrived"], row["assembled"], wait)),
        (QUEUE, _clipped(row["assembled"], wait[:, 1], wait)),
    ]


def _by_workers(waits: Intervals, rows: np.ndarray) -> Spans:
    """Wait number k is for batch number k, which one worker made in its rows' time.

    Before it had begun, while workers were at other batches: too few of them. What a slow worker
    takes beyond the others' usual time: that worker. Else what its rows say.
    """
    rows = rows[(rows["batch"] >= 0) & (rows["batch"] < len(waits))]
    batches, first, row_of = np.unique(rows["batch"], return_index=True, return_inverse=True)
    begun = np.full(len(batches), np.iinfo(np.int64).max)
    ended = np.zeros(len(batches), dtype=np.int64)
    np.minimum.at(begun, row_of, rows["start"])
    np.maximum.at(ended, row_of, rows["stop"])
    wait = waits[batches]
    at_work = union(intervals(rows["start"], rows["stop"]))
    early = _clipped(wait[:, 0], begun, wait)
    not_begun = subtract(early, subtract(early, at_work))
    usual = usual_time(rows["worker"][first], ended - begun)
    kinds = {
        kind: _clipped(rows["start"][these], rows["stop"][these], waits[rows["batch"][these]])
        for kind in (FETCH, PREP, ASSEMBLE)
        for these in (rows["kind"] == kind,)
    }
    return [
        (WORKERS, _clipped(begun + np.minimum(usual, ended - begun), ended, wait)),
        (FETCH, kinds[FETCH]),
        (PREP, kinds[PREP]),
        (WORKERS, not_begun),
        (ASSEMBLE, kinds[ASSEMBLE]),
        (ASSEMBLE, _clipped(begun, ended, wait)),
        (QUEUE, _clipped(ended, wait[:, 1], wait)),
    ]


def usual_time(worker: np.ndarray, took: np.ndarray) -> np.ndarray:
    """For each batch, how long it may take before its worker is what is slow.

    That is the other workers' median for a worker whose own median is `SLOW` times that, and
    without end for all others. `worker`, `took`: int64 [batches], nanoseconds.
    """
    usual = np.full(len(took), 2**62, dtype=np.int64)
    for number in np.unique(worker):
        own, others = took[worker == number], took[worker != number]
        if len(others) and np.median(own) > SLOW * np.median(others):
            usual[worker == number] = int(np.median(others))
    return usual


def _clipped(starts: np.ndarray, stops: np.ndarray, wait: Intervals) -> Intervals:
    return intervals(np.maximum(starts, wait[:, 0]), np.minimum(stops, wait[:, 1]))


def _marked(recording: Recording, cause: str) -> Intervals:
    rows = np.concatenate([recording.spans, recording.trace.spans])
    rows = rows[rows["cause"] == cause]
    return intervals(rows["start"], rows["stop"])


def _short_of_memory(recording: Recording, parts: Attribution) -> Attribution:
    """Host time of a step before which memory was short, for as long as that lasted, is `memory`.

    The kernel tells how long, not when; an allocator that tries again frees its cache and waits for
    the device, which takes all that the host does then.
    """
    rows = recording.pressure
    at = rows["step"] - recording.warmup
    rows, at = rows[(at >= 0) & (at < len(parts.steps))], at[(at >= 0) & (at < len(parts.steps))]
    stalled = np.zeros(len(parts.steps), dtype=np.int64)
    np.add.at(stalled, at, np.where(rows["retries"] > 0, parts.window, rows["stalled"]))
    return parts.moved(HOST, MEMORY, stalled) if stalled.any() else parts
