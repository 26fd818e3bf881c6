"""One run: every contender in the loop, then the ladder and the controls; its report, written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks.environment import environment
from benchmarks.starvation.cards.accelerator import Accelerator
from benchmarks.starvation.cards.gpu_load import load_of
from benchmarks.starvation.cards.pick import pick_accelerator
from benchmarks.starvation.cards.profiles import PROFILES
from benchmarks.starvation.checks.ladder import Card, climb
from benchmarks.starvation.checks.rungs import rungs
from benchmarks.starvation.checks.selftest import self_test
from benchmarks.starvation.contenders import Contender, OwnLoader
from benchmarks.starvation.contenders.lineup import (
    make_contenders,
    make_peers,
    make_stoker,
    resident_batch,
)
from benchmarks.starvation.contenders.peer import Peer
from benchmarks.starvation.describe import (
    describe_data,
    describe_device,
    describe_setup,
    find_price,
)
from benchmarks.starvation.explain.result import Ladder, Result
from benchmarks.starvation.loop.attempt import Feeds
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.progress import Progress
from benchmarks.starvation.loop.sweep import sized
from benchmarks.starvation.loop.trial import measure
from benchmarks.starvation.loop.world import World, joined
from benchmarks.starvation.options import Options
from benchmarks.starvation.reports.compare import read_report
from benchmarks.starvation.reports.report import Report
from benchmarks.starvation.reports.steps import write_steps
from benchmarks.starvation.run_metrics import RunMetrics, served
from shards.dataset import Dataset, open_dataset
from shards.errors import StokerError

LineUp = Callable[[Options, Dataset, bool, World], tuple[list[Contender], dict[str, str]]]


def run(
    options: Options, job: Mapping[str, str] | None = None, line_up: LineUp = make_contenders
) -> Report:
    """Measure every contender; write report.json, .html, .md and the steps into `options.output`.

    `job`: facts about the job that made the data, for the page. `line_up`: who takes part. As one
    of several ranks every process calls this and gets the report; rank 0 alone writes.

    Raises:
        StokerError: no such dataset or text; fewer samples than one batch; no such older report.
    """
    # Before anything is measured: a wrong file should not cost minutes.
    older = None if options.compare is None else read_report(options.compare)
    check_folder(options.output)
    with joined(options.ranks) as world:
        report, tables = run_as(world, options, job, line_up)
        if world.rank == 0:
            report.write(options.output, older)
            write_steps(tables, options.output)
    return report


def run_as(
    world: World, options: Options, job: Mapping[str, str] | None, line_up: LineUp
) -> tuple[Report, list[pa.Table]]:
    """This rank's part of `run`: the report of all ranks, and their steps."""
    dataset = open_dataset(options.data)
    data = describe_data(dataset, options)
    accelerator = pick_accelerator(options, dataset.manifest.tokenizer.vocab_size, world)
    metrics = RunMetrics()
    with served(metrics, options.metrics_port if world.rank == 0 else None):
        with closing(accelerator):
            contenders, left_out = line_up(options, dataset, torch.cuda.is_available(), world)
            card = Card(PROFILES[options.profile], options.cards, options.scale)
            peers, absent = make_peers(options, card, world, emulated=accelerator.emulated)
            left_out |= absent
            everyone: list[Feeds] = [*contenders, *peers]
            check_sweep(options, everyone)
            for each in everyone:
                if isinstance(each, OwnLoader):
                    each.try_first(options.shape)
            measured, said = [], describe_device(accelerator, card.profile, options)
            for each in everyone:
                try:
                    result, table, facts = try_out(each, accelerator, options, world, metrics)
                except StokerError as error:
                    # What somebody else's loader can't do is told, and the others go on; other
                    # ranks would wait for this one.
                    if world.size > 1 or not isinstance(each, (Peer, OwnLoader)):
                        raise
                    left_out[each.title] = str(error)
                else:
                    said |= facts
                    measured.append((result, table))
        ladder = climb_ladder(options) if options.ladder else None
        controls = tuple(self_test()) if options.self_test else ()
    report = Report(
        accelerator=accelerator.title,
        emulated=accelerator.emulated,
        results=tuple(result for result, _ in measured),
        left_out=left_out,
        device=said,
        data=data,
        setup=describe_setup(options, world),
        asked_steps=options.steps,
        environment=environment(),
        cards=options.cards * world.size,
        job=job or {},
        price=find_price(options, emulated=accelerator.emulated),
        ladder=ladder,
        controls=controls,
    )
    return report, [table for _, table in measured]


def try_out(
    contender: Feeds,
    accelerator: Accelerator,
    options: Options,
    world: World,
    metrics: RunMetrics,
) -> tuple[Result, pa.Table, Mapping[str, str]]:
    """All that is measured of one contender, its steps, and what a GPU said of itself meanwhile."""
    plan = Plan(options.steps, options.warmup, options.seconds)
    # Never of an emulated card: where there is a GPU none is emulated.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with load_of(device) as load:
        result, table = measure(
            contender,
            accelerator,
            plan,
            options.seeds,
            options.sweep_workers,
            world=world,
            on_begin=lambda progress: metrics.began(contender, progress),
        )
    result = replace(result, counters={**result.counters, **load.counters()})
    metrics.measured(result)
    return result, table, load.facts


def check_folder(folder: Path) -> None:
    """Now, since nobody wants to measure for nothing; it is made when there is something to write.

    Raises:
        StokerError: it can't be made, or can't be written to.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "can't be written to" if there.is_dir() else "is no folder"
        raise StokerError(f"--output {folder}: {there} {why}: choose another folder")


def check_sweep(options: Options, contenders: Sequence[Feeds]) -> None:
    """Raises a StokerError where there is nobody whose number of workers could be varied."""
    if options.sweep_workers and not any(map(sized, contenders)):
        raise StokerError(
            "--sweep-workers: nobody here takes a number of workers: add --text, --peers, or a"
            " --loader whose function takes workers="
        )


def climb_ladder(options: Options) -> Ladder:
    """Stoker's ladder, on the emulated card; over S3 with the run's longest latency.

    Raises:
        StokerError: there is a real GPU, on which it was never climbed.
    """
    if torch.cuda.is_available():
        raise StokerError("--ladder is for the emulated card: CUDA_VISIBLE_DEVICES= hides the GPU")
    stoker = make_stoker(options, pin=False)
    batch = resident_batch(stoker, pin=False)
    card = Card(PROFILES[options.profile], options.cards, options.scale)
    plan = Plan(options.steps, options.warmup, options.seconds)
    with rungs(stoker, batch, options.node, max(options.latency, default=0.0)) as levels:
        total = len(levels.found) * options.seeds * (options.steps + plan.allowance)
        with Progress("ladder", total) as progress:
            return climb(levels, card, plan, options.seeds, progress.step)
