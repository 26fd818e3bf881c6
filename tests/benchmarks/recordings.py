"""Recordings made by hand: loops whose every millisecond is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.starvation.loop.recording import HOST_STEP, SPAN, STEP, WORK, Recording, Trace

MS = 1_000_000


def loop(gaps: Sequence[float], step: float = 10, **more: object) -> Recording:
    """Steps of `step` ms behind waits in next() of `gaps` ms; the first step is warm-up."""
    host, steps = [], []
    at = 0.0
    for gap in gaps:
        host.append((at * MS, *((at + gap) * MS,) * 3))
        at += gap
        steps.append((at * MS, at * MS, at * MS, (at + step) * MS, 0, 100, 100, 1600))
        at += step
    trace = Trace(np.array(steps, dtype=STEP), 0)
    return Recording(
        np.array(host, dtype=HOST_STEP),
        trace,
        1,
        0,
        1.0,
        1.0,
        **more,  # type: ignore[arg-type]
    )


def work(*rows: tuple[int, int, str, int, int]) -> np.ndarray:
    """Rows (batch, worker, kind, start, stop) in ms."""
    return np.array([(b, w, k, s * MS, e * MS) for b, w, k, s, e in rows], dtype=WORK)


def spans(*rows: tuple[str, int, int]) -> np.ndarray:
    return np.array([(cause, s * MS, e * MS) for cause, s, e in rows], dtype=SPAN)
