"""When warm-up is over, and how sure a figure is: plain statistics on recorded steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A median over seeds with its bootstrap 95 % interval [`low`, `high`], in its own unit."""

    value: float
    low: float
    high: float
