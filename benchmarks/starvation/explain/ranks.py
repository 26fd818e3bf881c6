"""Recordings of several ranks of one run: their waits for each other told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.starvation.explain.causes import COMMUNICATION, STRAGGLER
from benchmarks.starvation.loop.recording import SPAN, Recording


def split_waits(recordings: Sequence[Recording]) -> list[Recording]:
    """The same, with each rank's wait for the last one to arrive called straggling.

    A rank's n-th "communication" span is its part in the n-th exchange of all: from its own arrival
    to the last rank's it waited for stragglers, the rest is the exchange. With one rank, or numbers
    of exchanges that differ (they are not the same exchanges then), all stays communication. Clocks
    must be one: see `benchmarks.starvation.loop.gather`.
    """
    recordings = [_first_steps(each, recordings) for each in recordings]
    waits = [_exchanges(each) for each in recordings]
    if len(recordings) < 2 or len({len(rows) for rows in waits}) != 1 or not len(waits[0]):
        return recordings
    last = np.max([rows["start"] for rows in waits], axis=0)
    return [_told(each, rows, last) for each, rows in zip(recordings, waits, strict=True)]


def _first_steps(recording: Recording, all_of_them: Sequence[Recording]) -> Recording:
    """With the longest warm-up of the ranks: their windows must hold the same steps."""
    return replace(recording, warmup=max(each.warmup for each in all_of_them))


def _exchanges(recording: Recording) -> np.ndarray:
    rows = np.concatenate([recording.spans, recording.trace.spans])
    rows = rows[rows["cause"] == COMMUNICATION]
    ordered: np.ndarray = rows[np.argsort(rows["start"], kind="stable")]
    return ordered


def _told(recording: Recording, rows: np.ndarray, last: np.ndarray) -> Recording:
    arrived = np.minimum(last, rows["stop"])
    late, rest = np.empty(len(rows), SPAN), np.empty(len(rows), SPAN)
    late["cause"], late["start"], late["stop"] = STRAGGLER, rows["start"], arrived
    rest["cause"], rest["start"], rest["stop"] = COMMUNICATION, arrived, rows["stop"]
    others = recording.spans[recording.spans["cause"] != COMMUNICATION]
    device = recording.trace.spans[recording.trace.spans["cause"] != COMMUNICATION]
    return replace(
        recording,
        spans=np.concatenate([others, late, rest]),
        trace=replace(recording.trace, spans=device),
    )
