"""The first measured steps of a recording, lane by lane, for a picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.starvation.explain.attribution import split
from benchmarks.starvation.explain.causes import H2D
from benchmarks.starvation.explain.evidence import claims
from benchmarks.starvation.explain.result import Span, Timeline
from benchmarks.starvation.loop.recording import Recording

SHOWN_STEPS = 60
# Thinner than this nobody sees it, and a page of thousands is slow.
THINNEST_MS = 0.001


def first_steps(recording: Recording, steps: int = SHOWN_STEPS) -> Timeline:
    """Host, copy and device of the first `steps` measured steps; 0 ms is where the window opens."""
    stop = recording.warmup + steps
    short = replace(
        recording,
        host=recording.host[:stop],
        trace=replace(recording.trace, steps=recording.trace.steps[:stop]),
    )
    said = claims(short)
    zero, end = int(said.edges[0]), int(said.edges[-1])
    spans = [
        span
        for cause, pieces in split((zero, end), said.busy, said.spans, said.inside)
        for span in _spans("device", cause, pieces, said.edges)
    ]
    host, device = short.host[short.warmup :], short.trace.steps[short.warmup :]
    for lane, kind, starts, stops in (
        ("host", "next", host["asked"], host["got"]),
        ("host", "step", host["got"], host["submitted"]),
        ("copy", H2D, device["copy_start"], device["copy_end"]),
    ):
        spans += _spans(lane, kind, np.stack([starts, stops], axis=1), said.edges)
    spans.sort(key=lambda span: (span.lane, span.start_ms))
    return Timeline(recording.seed, recording.rank, len(said.edges) - 1, tuple(spans))


def _spans(lane: str, kind: str, pieces: np.ndarray, edges: np.ndarray) -> list[Span]:
    pieces = np.clip(pieces, edges[0], edges[-1])
    at = np.clip(np.searchsorted(edges, pieces[:, 0], side="right") - 1, 0, len(edges) - 2)
    times = (pieces - edges[0]) / 1e6
    return [
        Span(lane, kind, int(step), round(float(start), 4), round(float(stop), 4))
        for step, (start, stop) in zip(at, times, strict=True)
        if stop - start >= THINNEST_MS
    ]
