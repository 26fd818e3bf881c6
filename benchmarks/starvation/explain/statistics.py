"""When warm-up is over, and how sure a figure is: plain statistics on recorded steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BATCH = 5
REPLICATES = 1000
COVERAGE = 0.95

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A median over seeds with its bootstrap 95 % interval [`low`, `high`], in its own unit."""

    value: float
    low: float
    high: float


def warmup_steps(times: np.ndarray) -> int:
    """How many of the first steps are warm-up, by MSER-5; `times`: how long each took.

    Means of 5 steps are left out from the beginning while that makes the standard error of the
    mean of the rest smaller, up to half of all (White, Cobb and Spratt, 2000).
    """
    batches = len(times) // BATCH
    if batches < 2:
        return 0
    means = np.asarray(times[: batches * BATCH], dtype=np.float64).reshape(-1, BATCH).mean(axis=1)
    # Sums from each batch to the last one; centred, since their squares would drown the variance.
    means = means - means.mean()
    count = np.arange(batches, 0, -1)
    total, squares = np.cumsum(means[::-1])[::-1], np.cumsum(means[::-1] ** 2)[::-1]
    error = np.maximum(0, squares - total**2 / count) / count**2
    return BATCH * int(np.argmin(error[: batches // 2 + 1]))


def estimate(
    seeds: Sequence[Columns], figures: Mapping[str, Callable[[Columns], float]]
) -> dict[str, Estimate]:
    """Every figure's median over `seeds`, with a bootstrap interval; equal for equal input.

    `seeds`: per-step columns of equal length of each seed. Seeds are drawn again with replacement,
    and in each of them blocks of consecutive steps, since neighbours are alike: a figure that
    differs between seeds, or comes in bursts, gets a wide interval.
    """
    random = np.random.default_rng(0)
    whole = np.array([[figure(columns) for figure in figures.values()] for columns in seeds])
    drawn = np.stack([_redrawn(columns, figures, random) for columns in seeds])
    chosen = random.integers(len(seeds), size=(REPLICATES, len(seeds)))
    medians = np.median(drawn[chosen, np.arange(REPLICATES)[:, None]], axis=1)
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(medians, (tail, 100 - tail), axis=0)
    value = np.median(whole, axis=0)
    return {
        name: Estimate(float(value[n]), float(min(low[n], value[n])), float(max(high[n], value[n])))
        for n, name in enumerate(figures)
    }


def _redrawn(
    columns: Columns,
    figures: Mapping[str, Callable[[Columns], float]],
    random: np.random.Generator,
) -> np.ndarray:
    """float64 [REPLICATES, figures]: each of blocks of steps drawn with replacement."""
    steps = len(next(iter(columns.values())))
    block = max(1, round(steps**0.5))
    offsets = np.arange(block)
    rows = np.empty((REPLICATES, len(figures)))
    for row in rows:
        begins = random.integers(steps, size=-(-steps // block))
        at = ((begins[:, None] + offsets) % steps).ravel()[:steps]
        these = {name: column[at] for name, column in columns.items()}
        row[:] = [figure(these) for figure in figures.values()]
    return rows


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median; 0 for a single value."""
    middle = float(np.median(values))
    return (max(values) - min(values)) / middle if middle else 0.0
