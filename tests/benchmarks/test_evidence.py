"""What a loader tells of its batches splits the waits for them, and moves nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.explain.attribution import Attribution
from benchmarks.starvation.explain.causes import CAUSES, INPUT_CAUSES, TOLD_BY_LOADERS
from benchmarks.starvation.explain.evidence import MARKED, cannot_see, explain, usual_time
from benchmarks.starvation.loop.recording import PRESSURE, SPAN, WORK
from tests.benchmarks.recordings import MS, loop, spans, work


def ms(parts: Attribution) -> dict[str, float]:
    return {cause: ns / MS for cause, ns in parts.nanoseconds.items() if ns}


def test_a_wait_goes_to_what_the_worker_did_for_its_batch():
    rows = work((1, 0, "fetch", 5, 14), (1, 0, "prep", 14, 21), (1, 0, "assemble", 22, 24))
    parts = explain(loop([0, 20], timeline=rows))
    # The loop asks at 10; 21 to 22 belongs to no row, 24 to 30 comes after the last.
    assert ms(parts) == {"compute": 10, "fetch": 4, "prep": 7, "assemble": 3, "queue": 6}


def test_before_the_batch_was_begun_there_were_too_few_workers():
    rows = work((0, 0, "prep", 0, 2), (2, 0, "prep", 3, 18), (1, 1, "prep", 20, 30))
    parts = explain(loop([0, 20, 0], timeline=rows))
    assert ms(parts) == {"compute": 20, "workers": 8, "input": 2, "prep": 10}


def test_what_one_slow_worker_takes_beyond_the_others_is_that_worker():
    rows = []
    for batch in range(8):
        took = 40 if batch % 2 else 10
        begun = 60 * (batch - 1)
        rows.append((batch, batch % 2, "prep", begun, begun + took))
    gaps = [0, *[50] * 7]
    parts = ms(explain(loop(gaps, timeline=work(*rows))))
    # Waits run from 10 to 60 ms behind each batch's begin: what slow ones take until 40.
    assert parts["workers"] == pytest.approx(4 * 30)
    even = [(b, w, k, s, s + 30) for b, w, k, s, _ in rows]
    assert "workers" not in ms(explain(loop(gaps, timeline=work(*even))))


def test_all_workers_equally_slow_is_heavy_preprocessing():
    took = np.full(10, 80 * MS)
    assert (usual_time(np.arange(10) % 2, took) > 10**18).all()
    took[1::2] = 160 * MS
    assert (usual_time(np.arange(10) % 2, took)[1::2] == 80 * MS).all()
    assert (usual_time(np.zeros(10, np.int64), took) > 10**18).all()


def test_a_loader_that_tells_nothing_leaves_causes_that_can_not_be_seen():
    assert cannot_see(None) == TOLD_BY_LOADERS
    assert cannot_see(work((0, 0, "prep", 0, 1))) == ()
    assert ms(explain(loop([0, 20]))) == {"compute": 10, "input": 20}


def test_waits_for_other_ranks_are_inside_the_step():
    waits = spans(("straggler", 33, 36), ("communication", 36, 38))
    parts = explain(loop([0, 20], spans=waits))
    assert ms(parts) == {"compute": 5, "communication": 2, "straggler": 3, "input": 20}
    assert parts.idle == 20 * MS


def test_an_opaque_step_of_several_ranks_is_not_separable_and_never_zero():
    parts = explain(loop([0, 20], separable=False))
    assert ms(parts) == {"not_separable": 10, "input": 20}


def test_what_the_loop_marks_inside_a_step_that_is_its_whole_body_is_cut_out_of_it():
    marks = spans(("checkpoint", 32, 35), ("gc", 34, 36))
    assert ms(explain(loop([0, 20], spans=marks, cut=MARKED))) == {
        "compute": 6, "input": 20, "checkpoint": 3, "gc": 1,
    }  # fmt: skip
    # A device that computes meanwhile is not disturbed by it.
    assert ms(explain(loop([0, 20], spans=marks))) == {"compute": 10, "input": 20}


def test_a_kernel_that_says_memory_was_short_takes_from_the_hosts_time_alone():
    run = loop([0, 20, 20])
    host = run.host.copy()
    host["asked"][1:] += 15 * MS
    pressure = np.array([(1, 4 * MS, 7, 0), (2, 0, 0, 1), (9, MS, 0, 0)], dtype=PRESSURE)
    parts = explain(replace(run, host=host, pressure=pressure))
    assert ms(parts) == {"compute": 20, "input": 10, "memory": 4 + 15, "host": 11}
    assert [*parts.steps.sum(axis=1)] == [30 * MS, 30 * MS]


kinds = st.sampled_from(["fetch", "prep", "assemble", "other"])
moment = st.integers(-50, 400)
worked = st.tuples(st.integers(-1, 12), st.integers(0, 3), kinds, moment, moment)
marked = st.tuples(st.sampled_from([*CAUSES, "tea"]), moment, moment)
pressed = st.tuples(st.integers(-1, 12), st.integers(0, 400), st.just(0), st.integers(0, 1))


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=10),
    st.lists(worked, max_size=12),
    st.lists(marked, max_size=8),
    st.lists(pressed, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_every_recording_sums_to_its_window_in_every_step(
    gaps, rows, marks, pressure, separable, cut
):
    run = loop(gaps)
    told = replace(
        run,
        timeline=np.array([(b, w, k, s * MS, e * MS) for b, w, k, s, e in rows], dtype=WORK),
        spans=np.array([(c, s * MS, e * MS) for c, s, e in marks], dtype=SPAN),
        pressure=np.array([(s, d * MS, f, r) for s, d, f, r in pressure], dtype=PRESSURE),
        separable=separable,
        cut=MARKED if cut else (),
    )
    parts = explain(told)
    periods = np.diff(run.trace.steps["end"])
    assert (parts.steps.sum(axis=1) == periods).all()
    assert (parts.steps >= 0).all()
    assert sum(parts.nanoseconds.values()) == parts.window == periods.sum()
    assert set(parts.nanoseconds) <= set(CAUSES)
    # Evidence splits the waits in next(); it makes them no longer and no shorter.
    foreign = explain(replace(told, timeline=None))
    assert parts.column(*INPUT_CAUSES).tolist() == foreign.column("input").tolist()
