"""One run: every contender in the loop, then the ladder and the controls; its report, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import pyarrow as pa
import torch

from benchmarks.environment import environment
from benchmarks.starvation.accelerator import Accelerator, pick_accelerator
from benchmarks.starvation.attempt import Feeds
from benchmarks.starvation.compare import read_report
from benchmarks.starvation.describe import (
    describe_data,
    describe_device,
    describe_setup,
    find_price,
)
from benchmarks.starvation.ladder import Card, climb, rungs
from benchmarks.starvation.lineup import make_contenders, make_peers, make_stoker, resident_batch
from benchmarks.starvation.measure import Plan
from benchmarks.starvation.options import Options
from benchmarks.starvation.peer import Peer
from benchmarks.starvation.profiles import PROFILES
from benchmarks.starvation.progress import Progress
from benchmarks.starvation.report import Report
from benchmarks.starvation.result import Ladder, Result
from benchmarks.starvation.run_metrics import RunMetrics, served
from benchmarks.starvation.selftest import self_test
from benchmarks.starvation.steps import write_steps
from benchmarks.starvation.sweep import sized
from benchmarks.starvation.trial import measure
from shards.dataset import open_dataset
from shards.errors import StokerError


def run(options: Options, job: Mapping[str, str] | None = None) -> Report:
    """Measure every contender; write report.json, .html, .md and the steps into `options.output`.

    `job`: facts about the job that made the data, for the page.

    Raises:
        StokerError: no such dataset or text; fewer samples than one batch; no such older report.
    """
    # Before anything is measured: a wrong file should not cost minutes.
    older = None if options.compare is None else read_report(options.compare)
    dataset = open_dataset(options.data)
    profile = PROFILES[options.profile]
    vocabulary = dataset.manifest.tokenizer.vocab_size
    accelerator = pick_accelerator(
        profile,
        cards=options.cards,
        time_scale=options.scale if not torch.cuda.is_available() else options.time_scale or 1.0,
        vocabulary=vocabulary,
        node=options.node,
    )
    metrics = RunMetrics()
    with served(metrics, options.metrics_port):
        with closing(accelerator):
            contenders, left_out = make_contenders(options, dataset, pin=not accelerator.emulated)
            card = Card(profile, options.cards, options.scale)
            peers, absent = make_peers(options, card, emulated=accelerator.emulated)
            left_out |= absent
            everyone: list[Feeds] = [*contenders, *peers]
            check_sweep(options, everyone)
            measured = []
            for each in everyone:
                try:
                    measured.append(try_out(each, accelerator, options, metrics))
                except StokerError as error:
                    # What another library can't do is told, and the others go on.
                    if not isinstance(each, Peer):
                        raise
                    left_out[each.title] = str(error)
        ladder = climb_ladder(options) if options.ladder else None
        controls = tuple(self_test()) if options.self_test else ()
    report = Report(
        accelerator=accelerator.title,
        emulated=accelerator.emulated,
        results=tuple(result for result, _ in measured),
        left_out=left_out,
        device=describe_device(accelerator, profile, options),
        data=describe_data(dataset, options),
        setup=describe_setup(options),
        environment=environment(),
        cards=options.cards,
        job=job or {},
        price=find_price(options, emulated=accelerator.emulated),
        ladder=ladder,
        controls=controls,
    )
    report.write(options.output, older)
    write_steps([table for _, table in measured], options.output)
    return report


def try_out(
    contender: Feeds, accelerator: Accelerator, options: Options, metrics: RunMetrics
) -> tuple[Result, pa.Table]:
    """All that is measured of one contender, and its steps."""
    plan = Plan(options.steps, options.warmup, options.seconds)
    found = measure(
        contender,
        accelerator,
        plan,
        options.seeds,
        options.sweep_workers,
        on_begin=lambda progress: metrics.began(contender, progress),
    )
    metrics.measured(found[0])
    return found


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
        total = len(levels) * options.seeds * (options.steps + plan.allowance)
        with Progress("ladder", total) as progress:
            return climb(levels, card, plan, options.seeds, progress.step)
