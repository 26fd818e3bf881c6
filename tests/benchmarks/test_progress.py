"""What is said while a measurement runs."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator

import pytest
import torch

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.loop.progress import Progress


class Clock:
    """Moves when told."""

    now = 1

    def __call__(self) -> int:
        return self.now


def test_steps_the_share_waited_so_far_and_the_time_left_are_shown():
    clock, shown = Clock(), io.StringIO()

    def batches() -> Iterator[Batch]:
        while True:
            clock.now += 30
            yield {"input_ids": torch.zeros(1)}

    with Progress("mine", 10, file=shown, clock=clock) as progress:
        taken = progress.watch(batches())
        for step in range(1, 5):
            next(taken)
            clock.now += 70
            progress.step(step)
        # The first wait is opening, no starvation; then 70, and 30 + 70 three times.
        assert progress.starved_at_most == pytest.approx(90 / 370)
        progress.now("mine, unthrottled")
    said = shown.getvalue()
    assert "mine:" in said
    assert "4/10 [00:00<00:00" in said
    assert "starved <= 24.3 %" in said
    assert "mine, unthrottled" in said


def test_steps_that_follow_fast_are_shown_ten_times_a_second_and_all_of_them_at_the_end():
    clock, shown = Clock(), io.StringIO()
    clock.now = 10**9
    with Progress("mine", 1000, file=shown, clock=clock) as progress:
        progress.step(1)
        first = len(shown.getvalue())
        for step in range(2, 51):
            clock.now += 1_000_000
            progress.step(step)
        assert len(shown.getvalue()) == first
        clock.now += 60_000_000
        progress.step(51)
        assert "51/1000" in shown.getvalue()
        progress.step(52)
    assert progress.steps == 52
    assert "52/1000" in shown.getvalue()


def test_watching_keeps_no_batch_alive():
    given = [{"input_ids": torch.zeros(1)}]
    alive = weakref.ref(given[0]["input_ids"])
    with Progress("mine", 1, file=io.StringIO()) as progress:
        taken = progress.watch(given.pop() for _ in range(1))
        batch = next(taken)
        assert alive() is not None
        del batch
        assert alive() is None


def test_before_the_first_batch_nothing_is_claimed():
    with Progress("mine", 10, file=io.StringIO()) as progress:
        assert progress.starved_at_most == 0
