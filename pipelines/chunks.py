"""Units -> tasks. What a unit writes never depends on it, so this may look at the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.plan import Unit

# Between two tasks a worker waits 0.2 to 0.4 s for Ray and its last shard. 1 GiB of Parquet is half
# a minute of the fast engine, 32 MiB a second. More would be lost when a worker dies, since a task
# starts again as a whole.
_MOST_BYTES = {"gigatoken": 1 << 30, "tokenizers": 0}
_LEAST_BYTES = {"gigatoken": 32 << 20, "tokenizers": 0}
# The driver's work grows with the tasks.
_MOST_TASKS = 20_000
# Tasks a slot: that what is left is cut into, so that the last ones are small and all slots end
# together; and that a job has at least, however small.
_TASKS_AHEAD = 2
_FEWEST_TASKS = 4


def into_tasks(units: Sequence[Unit], slots: int, engine: str) -> list[tuple[Unit, ...]]:
    """The units in order, several a task where they are many, ever fewer towards the end.

    Guided self-scheduling (Polychronopoulos and Kuck, 1987): each task takes a share of what is
    left, here 1 / (2 slots), within limits.

    Args:
        slots: tasks that run at the same time.
    """
    left = sum(unit.bytes for unit in units)
    most = max(_MOST_BYTES[engine], left // _MOST_TASKS)
    least = min(_LEAST_BYTES[engine], left // (_FEWEST_TASKS * slots))
    tasks: list[tuple[Unit, ...]] = []
    held: list[Unit] = []
    filled = 0
    for unit in units:
        held.append(unit)
        filled += unit.bytes
        if filled >= max(least, min(most, left // (_TASKS_AHEAD * slots))):
            tasks.append(tuple(held))
            left -= filled
            held, filled = [], 0
    return [*tasks, tuple(held)] if held else tasks
