"""How many malformed rows a job may set apart: a count, or a share of all rows."""

from __future__ import annotations

# A count is an int, a share of the rows a float in [0, 1).
Budget = int | float

# Where most rows of a unit are bad, the job was told a wrong column or format: no share is meant
# for that, and what is set apart is held in memory until its unit ends.
_HOPELESS_ROWS = 10_000
_HOPELESS_SHARE = 0.5


def parse_budget(text: str) -> Budget:
    """A count (`100`), or a share (`0.1%`, `0.001`).

    Raises:
        ValueError: neither.
    """
    number = text.strip()
    if number.isascii() and number.isdigit():
        return int(number)
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(
            f"{text!r} is neither a number of rows nor a share of them below 1: write for example "
            "100, 0.1% or 0.001"
        )
    return share


def show_budget(budget: Budget) -> str:
    """As `parse_budget` reads it."""
    return f"{budget * 100:.6g}%" if isinstance(budget, float) else str(budget)


def unit_exceeds(budget: Budget, bad: int, rows: int) -> bool:
    """Whether `bad` of the `rows` of one unit read so far are already too many for the job.

    A count holds for each unit, since it holds for the sum. A share is one of all the job's rows,
    so a unit may exceed it, unless most of the unit is bad.
    """
    if isinstance(budget, int):
        return bad > budget
    return bad > _HOPELESS_ROWS and bad > max(budget, _HOPELESS_SHARE) * rows


def job_exceeds(budget: Budget, bad: int, rows: int, *, finished: bool) -> bool:
    """Whether the units done so far have too many bad rows; a share is judged at the end alone."""
    if isinstance(budget, int):
        return bad > budget
    return finished and bad > budget * rows
