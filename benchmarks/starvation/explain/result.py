"""What is known of one contender when all its seeds and ranks are merged: the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.starvation.explain.causes import COMPUTE, IN_STEP, INPUT_CAUSES, NOT_SEPARABLE
from benchmarks.starvation.explain.figures import Figures
from benchmarks.starvation.explain.statistics import Estimate

# Seeds that differ by more than this share of their median are called unstable.
UNSTABLE = 0.05
# Less idleness than this in all input causes together: the device was fed.
FED = 0.005

# More workers than these bring less than a tenth of the best rate: the knee of the curve.
KNEE_SHARE = 0.9


@dataclass(frozen=True)
class Run:
    """One seed on one rank. `causes`: nanoseconds of `window_ns` by cause; they sum to it.

    `warmup`: steps left out at the beginning, found by MSER-5. `own_work_ms`: median time of a step
    without waits for other ranks. `clock_error_ns`: how far times of device or rank may be off.
    """

    seed: int
    rank: int
    steps: int
    warmup: int
    window_ns: int
    causes: Mapping[str, int]
    stall_rate: float
    tokens_per_s: float
    own_work_ms: float
    clock_error_ns: int = 0


@dataclass(frozen=True)
class Span:
    """A stretch of one lane ("host", "copy", "device") of the timeline, in ms since its begin.

    `kind` is a cause, or on the host lane also "next" (all of the wait in next()) and "step".
    """

    lane: str
    kind: str
    step: int
    start_ms: float
    stop_ms: float


@dataclass(frozen=True)
class Timeline:
    """The first measured steps of one seed on one rank, lane by lane.

    Of several seeds the one whose stall rate is the median, of an even number the lower middle.
    """

    seed: int
    rank: int
    steps: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Advice:
    """One thing to do, or that can't help. `share`: of the window, what it is about.

    `called`: the cause's usual name, `family`: where that belongs. `evidence`: the figures that say
    so. `action`: what to do, in a sentence.
    """

    cause: str
    family: str
    called: str
    share: float
    evidence: str
    action: str


@dataclass(frozen=True)
class WorkersPoint:
    """The same loader with `workers` processes: alone and, where it was tried, in the loop."""

    workers: int
    unthrottled_tokens_per_s: float
    headroom: float
    stall_rate: float | None = None


def knee(points: Sequence[WorkersPoint]) -> WorkersPoint | None:
    """The fewest workers that reach 90 % of the best unthrottled rate; None of no points."""
    if not points:
        return None
    best = max(point.unthrottled_tokens_per_s for point in points)
    enough = [p for p in points if p.unthrottled_tokens_per_s >= KNEE_SHARE * best]
    return min(enough, key=lambda point: point.workers)


@dataclass(frozen=True)
class Result:
    """One contender over all seeds and ranks.

    Attributes:
        figures: medians over seeds, but for `shares`, which are of all windows together, and
            `gaps_ms` and `starts_s`, which are of the run that `timeline` is of.
        unthrottled_tokens_per_s: of the loader alone; None for one without a speed of its own.
        bounded: False for a batch that is always there: a ceiling, of which nothing is advised.
        estimates: by the name of a figure (`stall_rate`, `gap_rate`, `au`, `goodput`,
            `tokens_per_s`, `step_ms`, `gap_p99_ms`), with their bootstrap 95 % intervals.
        window_ns, causes: of all runs together; `causes` sum to `window_ns` exactly.
        cannot_see: causes that this loader gives no evidence of: their time is in `input`.
        runs: each seed on each rank. spread: (largest - smallest) / median of the seeds' mean
            times from step to step; `unstable` beyond 5 %.
        straggler_loss: 1 - mean(median over ranks of own work) / mean(max); None for one rank.
        padding_lost: slots without a token / slots of the window's steps.
        epoch_edge_gap_ms, resume_gap_ms: the longest gap at an end of an epoch; to the first batch
            after a restore. None where there was none.
        cores_to_feed: fewest CPU cores a card for au >= 0.99: CPU seconds a token of the loader
            alone x 99 % of the card's demand; more where its work can't be done side by side, and
            no number of cores where it waits for a store. None where it was not looked for.
        overhead_share: CPU time of the loop's thread that measuring took / T, warm-up included.
        counters: of the whole window, for people: what NVML, DCGM and the kernel said meanwhile.
    """

    name: str
    title: str
    note: str
    figures: Figures
    unthrottled_tokens_per_s: float | None = None
    bounded: bool = True
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    window_ns: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    cannot_see: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    spread: float = 0.0
    straggler_loss: float | None = None
    padding_lost: float = 0.0
    epoch_edge_gap_ms: float | None = None
    resume_gap_ms: float | None = None
    cores_to_feed: float | None = None
    overhead_share: float | None = None
    counters: Mapping[str, float] = field(default_factory=dict)
    workers: tuple[WorkersPoint, ...] = ()
    timeline: Timeline | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def headroom(self) -> float | None:
        """Unthrottled rate over the device's demand; below 1 starvation is certain."""
        if self.unthrottled_tokens_per_s is None:
            return None
        return self.unthrottled_tokens_per_s / self.figures.demand_tokens_per_s

    @property
    def unstable(self) -> bool:
        """True when the seeds differ too much for their median to mean something."""
        return self.spread > UNSTABLE

    @property
    def seeds(self) -> int:
        """Runs of each rank."""
        return len({run.seed for run in self.runs})

    @property
    def ranks(self) -> int:
        """Ranks that took part."""
        return len({run.rank for run in self.runs})

    @property
    def drawn(self) -> str:
        """Which run the pictures show: `seed 1 of 0-2, the middle one`; "" where none was kept."""
        if self.timeline is None:
            return ""
        seeds = sorted({run.seed for run in self.runs})
        words = f"seed {self.timeline.seed}"
        if len(seeds) > 1:
            words += f" of {seeds[0]}-{seeds[-1]}, the middle one"
        return words + (f", rank {self.timeline.rank}" if self.ranks > 1 else "")

    @property
    def comm_exposed(self) -> float | None:
        """Communication and straggling inside steps / T; None where a step doesn't show it."""
        if self.share(NOT_SEPARABLE):
            return None
        return self.share(*IN_STEP)

    def share(self, *causes: str) -> float:
        """The part of all windows, 0 to 1, that these causes took together."""
        return sum(self.causes.get(cause, 0) for cause in causes) / max(1, self.window_ns)

    @property
    def main_cause(self) -> str | None:
        """The input cause that took most, or None where the device was fed."""
        if self.share(*INPUT_CAUSES) < FED:
            return None
        return max(INPUT_CAUSES, key=lambda cause: self.causes.get(cause, 0))

    @property
    def most_idle(self) -> str | None:
        """The cause of any kind that took most beside compute, or None without one."""
        rest = {cause: ns for cause, ns in self.causes.items() if cause != COMPUTE and ns}
        return max(rest, key=rest.__getitem__) if rest else None


@dataclass(frozen=True)
class Level:
    """One rung of the ladder: the median period of a step there, and what that rung adds.

    `added`: share of the real loop's time that this level takes more than the one below.
    `attributed`: what the attribution says of the causes that this level adds. L0 has neither.
    """

    level: str
    title: str
    causes: tuple[str, ...]
    step_ms: Estimate
    added: float | None = None
    attributed: float | None = None


@dataclass(frozen=True)
class Ladder:
    """L0 to L4 of one contender. `difference`: the largest |added - attributed| of a level.

    `left_out`: levels that there are not, and why.
    """

    contender: str
    levels: tuple[Level, ...]
    difference: float
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Within 2 points: else neither is to be trusted."""
        return self.difference <= 0.02


@dataclass(frozen=True)
class Control:
    """One fault put in on purpose. `named`: the part of the added idleness that `expected` got.

    `added_ms` a step, over the clean run. A clean run has `expected` None: it must name nothing.
    """

    name: str
    called: str
    injected: str
    expected: str | None
    added_ms: float
    named: float
    passed: bool
    causes_ms: Mapping[str, float] = field(default_factory=dict)
