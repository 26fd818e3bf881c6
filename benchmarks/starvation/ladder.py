"""The differential ladder: the same loop with less and less input work, beside the attribution.

L0 a batch that lies on the device, L1 and its copy, L2 the loader over shards in memory, L3 over
warm local files, L4 over S3. What a level's steps take longer than those of the level below is what
its part of the work costs, whatever evidence says: DS-Analyzer's differences, one part at a time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.starvation.accelerator import Batch, EmulatedAccelerator, Node
from benchmarks.starvation.causes import (
    ASSEMBLE,
    FETCH,
    H2D,
    INPUT_CAUSES,
    PREP,
    QUEUE,
    WORKERS,
)
from benchmarks.starvation.contenders import Contender, ResidentBatch, Stoker
from benchmarks.starvation.figures import columns
from benchmarks.starvation.measure import Plan, record
from benchmarks.starvation.merge import Measured, attributions
from benchmarks.starvation.profiles import Profile
from benchmarks.starvation.recording import Recording
from benchmarks.starvation.result import Ladder, Level
from benchmarks.starvation.statistics import Estimate, estimate

MEMORY = Path("/dev/shm")
# A link on which a copy takes no time: what lies on the device needs none.
NO_COPY = Node(h2d_bytes_per_s=1e18)
MADE = (PREP, WORKERS, ASSEMBLE, QUEUE)
_PIECE = 1 << 24


@dataclass(frozen=True)
class Rung:
    """A level before it is measured: what feeds the card there, and which causes that adds."""

    level: str
    title: str
    causes: tuple[str, ...]
    contender: Contender
    node: Node


@dataclass(frozen=True)
class Card:
    """The emulated card that all levels train on."""

    profile: Profile
    cards: int = 1
    time_scale: float = 1.0


@dataclass(frozen=True)
class _Climbed:
    rung: Rung
    step_ns: float
    causes_ns: dict[str, float]
    step_ms: Estimate


@contextmanager
def rungs(stoker: Stoker, batch: Batch, node: Node, latency_ms: float) -> Iterator[list[Rung]]:
    """The levels below and of `stoker`, lowest first, until the block ends.

    Over a local folder L4 reads it from an S3 server of this machine that holds requests back for
    `latency_ms`. Over S3 there is no L2 and no L3, nor L2 where memory has no room for a copy:
    their causes belong to the next level then.
    """
    found = [
        Rung("L0", "batch resident on the device", (), ResidentBatch(batch), NO_COPY),
        Rung("L1", "batch in memory, and its copy", (H2D,), ResidentBatch(batch), node),
    ]
    if "://" in stoker.uri.removeprefix("file://"):
        yield [*found, Rung("L4", "loader over S3", INPUT_CAUSES, stoker, node)]
        return
    folder = Path(stoker.uri.removeprefix("file://"))
    size = _warm(folder)
    far = replace(stoker, latency_ms=latency_ms)
    memory = _memory(size)
    with tempfile.TemporaryDirectory(prefix="stoker-ladder-", dir=memory) as copy:
        if memory:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            near = replace(stoker, uri=copy)
            found.append(Rung("L2", "loader over shards in memory", MADE, near, node))
        causes = (FETCH,) if memory else (*MADE, FETCH)
        found.append(Rung("L3", "loader over warm local shards", causes, stoker, node))
        found.append(
            Rung("L4", f"loader over S3, {latency_ms:g} ms a request", (FETCH,), far, node)
        )
        yield found


def climb(
    levels: Sequence[Rung],
    card: Card,
    plan: Plan,
    seeds: int = 1,
    on_step: Callable[[int], object] = lambda _: None,
) -> Ladder:
    """Measure every level and compare what it adds with what the attribution says of its causes.

    Both are shares of the highest level's time. `agrees` of the result is within 2 points.
    """
    climbed = [_measure(rung, card, plan, seeds, on_step) for rung in levels]
    whole = climbed[-1].step_ns
    found = [Level(levels[0].level, levels[0].title, (), climbed[0].step_ms)]
    for below, here in pairwise(climbed):
        rung = here.rung
        attributed = sum(
            here.causes_ns.get(cause, 0.0) - below.causes_ns.get(cause, 0.0)
            for cause in rung.causes
        )
        found.append(
            Level(
                rung.level,
                rung.title,
                rung.causes,
                here.step_ms,
                (here.step_ns - below.step_ns) / whole,
                attributed / whole,
            )
        )
    difference = max(abs((each.added or 0) - (each.attributed or 0)) for each in found)
    return Ladder(levels[-1].contender.name, tuple(found), difference)


def _measure(
    rung: Rung, card: Card, plan: Plan, seeds: int, on_step: Callable[[int], object]
) -> _Climbed:
    recordings: list[Recording] = []
    accelerator = EmulatedAccelerator(card.profile, card.cards, card.time_scale, node=rung.node)
    with closing(accelerator), rung.contender.ready():
        for seed in range(seeds):
            recording, batches = record(
                partial(rung.contender.open, seed), accelerator, plan, on_step, seed
            )
            recordings.append(replace(recording, timeline=rung.contender.timeline()))
            del batches
    measured = attributions(recordings)
    parts = [part for ranks in measured for _, part in ranks]
    steps = sum(len(part.steps) for part in parts)
    causes = {cause for part in parts for cause in part.nanoseconds}
    return _Climbed(
        rung,
        sum(part.window for part in parts) / steps,
        {cause: sum(part.nanoseconds.get(cause, 0) for part in parts) / steps for cause in causes},
        _step_ms(measured),
    )


def _step_ms(measured: Sequence[Sequence[Measured]]) -> Estimate:
    tables = [columns(*zip(*ranks, strict=True)) for ranks in measured]
    return estimate(tables, {"step_ms": lambda table: float(table["period"].mean()) / 1e6})[
        "step_ms"
    ]


def _memory(size: int) -> str | None:
    """Where `size` bytes have room in memory, twice over."""
    room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * size
    return str(MEMORY) if room else None


def _warm(folder: Path) -> int:
    """Read every file once, so that the system keeps what it has room for; their bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    total += len(piece)
    return total
