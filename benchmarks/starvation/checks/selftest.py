"""The report checks itself: of each fault's added idleness, how much goes to the right cause.

python -m benchmarks.starvation --self-test
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.starvation.checks.faults import FAULTS, Fault, Material, Side
from benchmarks.starvation.explain.causes import COMPUTE, PADDING
from benchmarks.starvation.explain.merge import attributions
from benchmarks.starvation.explain.result import Control
from shards.errors import StokerError

STEPS = 60
# Of the added idleness the fault's cause must get this much, and less of the window is no fault.
NAMED, ADDED = 0.8, 0.1
# A cause that takes less than this of a clean run's window is not named.
NOTHING = 0.02


@dataclass(frozen=True)
class Lost:
    """Milliseconds a step on average: of the window, and what each cause but compute lost of it.

    `padding` is there too: computing slots that hold no token.
    """

    step_ms: float
    causes_ms: dict[str, float]


def self_test(
    names: Iterable[str] = tuple(FAULTS), steps: int = STEPS, tell: Callable[[str], object] = print
) -> list[Control]:
    """Put in each of the faults `names`; `tell` is given a line of the table for each.

    Raises:
        StokerError: no fault of such a name.
    """
    names = list(names)
    if wrong := [name for name in names if name not in FAULTS]:
        raise StokerError(f"no fault {wrong[0]!r}: there are {', '.join(FAULTS)}")
    tell(line(("fault", "injected", "must name", "added", "named", "", "")))
    controls = []
    with tempfile.TemporaryDirectory(prefix="stoker-faults-") as folder:
        material = Material(Path(folder))
        for name in names:
            controls.append(control(FAULTS[name](material), steps))
            tell(row(controls[-1]))
    return controls


def control(fault: Fault, steps: int = STEPS) -> Control:
    """Run both sides of `fault` for `steps` and compare what they lost."""
    faulty = lost(fault.faulty, steps)
    if fault.expected is None:
        worst = max(faulty.causes_ms.values(), default=0.0) / faulty.step_ms
        return Control(
            fault.name,
            fault.called,
            fault.injected,
            None,
            added_ms=sum(faulty.causes_ms.values()),
            named=worst,
            passed=worst < NOTHING,
            causes_ms=faulty.causes_ms,
        )
    clean = lost(fault.clean, steps)
    added = {
        cause: faulty.causes_ms.get(cause, 0.0) - clean.causes_ms.get(cause, 0.0)
        for cause in faulty.causes_ms | clean.causes_ms
    }
    # What got less doesn't make up for what got more.
    total = sum(max(0.0, ms) for ms in added.values())
    named = max(0.0, added.get(fault.expected, 0.0)) / total if total else 0.0
    return Control(
        fault.name,
        fault.called,
        fault.injected,
        fault.expected,
        added_ms=total,
        named=named,
        passed=named >= NAMED and total >= ADDED * faulty.step_ms,
        causes_ms=added,
    )


def lost(side: Side, steps: int) -> Lost:
    """What `side` loses, a mean over `steps` and its ranks."""
    measured = [each for ranks in attributions(side.run(steps)) for each in ranks]
    parts = [part for _, part in measured]
    count = sum(len(part.steps) for part in parts)
    causes = {cause for part in parts for cause in part.nanoseconds if cause != COMPUTE}
    causes_ms = {
        cause: sum(part.nanoseconds.get(cause, 0) for part in parts) / count / 1e6
        for cause in sorted(causes)
    }
    empty = window = 0.0
    for recording, part in measured:
        rows = recording.trace.steps[recording.warmup :]
        share = 1 - float(np.sum(rows["tokens"]) / np.sum(rows["slots"]))
        empty += share * part.nanoseconds[COMPUTE]
        window += part.window
    causes_ms[PADDING] = empty / count / 1e6
    return Lost(window / count / 1e6, causes_ms)


def row(control: Control) -> str:
    """One control in a line, as `self_test` tells it."""
    second = sorted(control.causes_ms.items(), key=lambda item: -item[1])[:2]
    rest = ", ".join(f"{cause} {ms:.1f} ms" for cause, ms in second if ms >= 0.05)
    return line(
        (
            control.name,
            control.injected,
            control.expected or "nothing",
            f"{control.added_ms:.1f} ms",
            f"{100 * control.named:.0f} %",
            "passed" if control.passed else "FAILED",
            rest,
        )
    )


def line(cells: Sequence[str]) -> str:
    """A line of the table."""
    widths = (16, 56, 10, 9, 6, 7, 0)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
