"""One contender in the loop, seed by seed, then alone, then opened anew where it was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from benchmarks.starvation.cards.accelerator import Accelerator, Batch
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.contenders.contender import Feeder
from benchmarks.starvation.loop.cpu_time import CpuTime
from benchmarks.starvation.loop.gather import gather
from benchmarks.starvation.loop.measure import Alone, Plan, alone, record
from benchmarks.starvation.loop.progress import Progress
from benchmarks.starvation.loop.recording import Recording
from benchmarks.starvation.loop.world import World


@dataclass(frozen=True)
class Attempt:
    """What one contender did: a recording a seed, then without a device, then restored.

    `alone`: None of a contender without a speed of its own. `resume_ms`: from opening it anew, at
    the place where each seed's loop had ended, to the first batch; none where it can't be resumed.
    """

    recordings: tuple[Recording, ...]
    alone: Alone | None = None
    resume_ms: tuple[float, ...] = ()


@runtime_checkable
class Resumable(Protocol):
    """A contender whose place can be saved and found again."""

    def state(self) -> Any:
        """Where it stands: behind the last batch that it gave."""

    def resume(self, state: Any, seed: int = 0) -> Iterator[Batch]:
        """Open it anew where `state` was taken, of the same seed."""


@runtime_checkable
class Elsewhere(Feeder, Protocol):
    """A contender that runs the loop itself, over a card like the run's, in another process."""

    def attempt(self, plan: Plan, seeds: int, on_step: Callable[[int], object]) -> Attempt:
        """Inside its `ready()`; `on_step` is called a time a step."""


Feeds = Contender | Elsewhere


def attempt(
    contender: Feeds,
    accelerator: Accelerator,
    plan: Plan,
    seeds: int,
    title: str = "",
    *,
    world: World | None = None,
    on_begin: Callable[[Progress], object] = lambda _: None,
) -> Attempt:
    """Train on what the contender gives, inside its `ready()`; `title` is for people.

    Every rank of `world` does so at the same time, and gets what all of them saw. `on_begin` is
    given what counts the steps, before the first of them.
    """
    title, world = title or contender.title, world or World()
    with Progress(title, seeds * (plan.steps + plan.allowance)) as progress:
        on_begin(progress)
        if isinstance(contender, Elsewhere):
            return contender.attempt(plan, seeds, progress.step)
        recordings: list[Recording] = []
        resumed: list[float] = []
        unheld = None
        for seed in range(seeds):
            used = CpuTime()
            common = world.plan(plan, f"{title}/{seed}")
            world.barrier()
            recording, batches = _train(contender, accelerator, common, seed, progress)
            recordings += gather(recording)
            state = contender.state() if isinstance(contender, Resumable) else None
            if seed == seeds - 1 and contender.bounded:
                progress.now(f"{title}, unthrottled")
                # All ranks at once: their loaders share this machine, as they do in training.
                world.barrier()
                unheld = _mean(alone(batches, used), world)
            # Let go before the next one begins, with its threads and processes.
            del batches
            if isinstance(contender, Resumable):
                resumed.append(world.mean(_resume(contender, state, seed)))
    return Attempt(tuple(recordings), unheld, tuple(resumed))


def _mean(here: Alone, world: World) -> Alone:
    return Alone(world.mean(here.tokens_per_s), world.mean(here.cpu_s_per_token))


def _train(
    contender: Contender, accelerator: Accelerator, plan: Plan, seed: int, progress: Progress
) -> tuple[Recording, Iterator[Batch]]:
    recording, batches = record(
        lambda: progress.watch(contender.open(seed)), accelerator, plan, progress.step, seed
    )
    begun = tuple(each for each in contender.epochs() if each < len(recording.host))
    return replace(recording, timeline=contender.timeline(), epochs=begun), batches


def _resume(contender: Resumable, state: Any, seed: int) -> float:
    """Milliseconds from opening at `state` to the first batch."""
    began = time.perf_counter_ns()
    batches = contender.resume(state, seed)
    next(batches)
    return (time.perf_counter_ns() - began) / 1e6
