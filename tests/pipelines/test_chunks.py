"""Units go to workers several at a time, and every unit exactly once, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.chunks import into_tasks
from pipelines.plan import Slice, Unit

MIB = 1 << 20


def units_of(sizes: list[int]) -> list[Unit]:
    return [
        Unit(number, "web", (Slice(f"/{number}", 0, size, size, "e", "jsonl", ""),))
        for number, size in enumerate(sizes)
    ]


@given(
    sizes=st.lists(st.integers(0, 300 * MIB), max_size=200),
    slots=st.integers(1, 500),
    engine=st.sampled_from(["gigatoken", "tokenizers"]),
)
def test_every_unit_is_in_one_task_in_order(sizes: list[int], slots: int, engine: str) -> None:
    units = units_of(sizes)
    tasks = into_tasks(units, slots, engine)
    assert [unit for task in tasks for unit in task] == units
    assert all(tasks)


def test_units_of_the_slow_engine_go_one_by_one() -> None:
    assert {len(task) for task in into_tasks(units_of([MIB] * 500), 2, "tokenizers")} == {1}


def test_many_units_are_few_tasks_that_shrink_towards_the_end() -> None:
    tasks = into_tasks(units_of([8 * MIB] * 6400), 4, "gigatoken")
    assert len(tasks) < 100
    lengths = [len(task) for task in tasks]
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths) == 128, "1 GiB is the most that a task is given"
    assert lengths[-2] == 4, "32 MiB are the least"


def test_no_slot_is_idle_while_units_are_left() -> None:
    assert len(into_tasks(units_of([8 * MIB] * 64), 64, "gigatoken")) == 64


def test_a_million_units_are_at_most_some_twenty_thousand_tasks() -> None:
    tasks = into_tasks(units_of([256 * MIB] * 100_000), 1000, "tokenizers")
    assert len(tasks) < 30_000
