"""Units -> tasks. What a unit writes never depends on it, so this may look at the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.plan import Unit

# Between two tasks a worker waits about 0.1 s for Ray; 256 MiB are some seconds of the fast engine.
# More would be lost when a worker dies, since a task starts again as a whole.
_MOST_BYTES = {"gigatoken": 256 << 20, "tokenizers": 0}
# The driver's work grows with the tasks.
_MOST_TASKS = 20_000
# So that the last tasks are small and all slots end together.
_TASKS_AHEAD = 4


def into_tasks(units: Sequence[Unit], slots: int, engine: str) -> list[tuple[Unit, ...]]:
    """The units in order, several a task where they are many, ever fewer towards the end.

    Guided self-scheduling (Polychronopoulos and Kuck, 1987): each task takes a share of what is
    left, here 1 / (4 slots), within a limit.

    Args:
        slots: tasks that run at the same time.
    """
    left = sum(unit.bytes for unit in units)
    most = max(_MOST_BYTES[engine], left // _MOST_TASKS)
    tasks: list[tuple[Unit, ...]] = []
    held: list[Unit] = []
    filled, wanted = 0, min(most, left // (_TASKS_AHEAD * slots))
    for unit in units:
        held.append(unit)
        filled += unit.bytes
        if filled >= wanted:
            tasks.append(tuple(held))
            left -= filled
            held, filled, wanted = [], 0, min(most, left // (_TASKS_AHEAD * slots))
    return [*tasks, tuple(held)] if held else tasks
