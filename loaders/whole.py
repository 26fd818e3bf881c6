"""Whole numbers from outside: a number from a configuration file may be "8" or 8.0."""

import operator
from typing import SupportsIndex


def whole(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """`value` as an int; numpy's and torch's whole numbers are some, too.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number, not {value!r}, a {type(value).__name__}"
        ) from None
    if least is not None and number < least:
        bound = "must not be negative" if least == 0 else f"must be at least {least}"
        raise ValueError(f"{name} {bound}, not {number}")
    return number
