"""One run: every contender in the loop, then the ladder and the controls; its report, written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import torch

from benchmarks.environment import environment
from benchmarks.starvation.accelerator import Accelerator, Batch, pick_accelerator
from benchmarks.starvation.compare import read_report
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.describe import (
    describe_data,
    describe_device,
    describe_setup,
    find_price,
)
from benchmarks.starvation.ladder import Card, climb
from benchmarks.starvation.lineup import make_contenders, make_stoker, resident_batch
from benchmarks.starvation.measure import Plan, record, unthrottled
from benchmarks.starvation.merge import merge
from benchmarks.starvation.options import Options
from benchmarks.starvation.profiles import PROFILES
from benchmarks.starvation.progress import Progress
from benchmarks.starvation.report import Report
from benchmarks.starvation.result import Ladder, Result
from benchmarks.starvation.run_metrics import RunMetrics, served
from benchmarks.starvation.rungs import rungs
from benchmarks.starvation.selftest import self_test
from benchmarks.starvation.steps import step_table, write_steps
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
            measured = [measure(each, accelerator, options, metrics) for each in contenders]
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


def measure(
    contender: Contender, accelerator: Accelerator, options: Options, metrics: RunMetrics
) -> tuple[Result, pa.Table]:
    """Run one contender in the loop, seed by seed, then alone; its result and its steps."""
    plan = Plan(options.steps, options.warmup, options.seconds)
    recordings = []
    total = options.seeds * (options.steps + plan.allowance)
    with contender.ready(), Progress(contender.title, total) as progress:
        metrics.began(contender, progress)
        for seed in range(options.seeds):
            # The run before is let go first, with its threads and processes.
            batches: Iterator[Batch] = iter(())
            recording, batches = record(
                lambda: progress.watch(contender.open()), accelerator, plan, progress.step, seed
            )
            recordings.append(replace(recording, timeline=contender.timeline()))
        progress.now(f"{contender.title}, unthrottled")
        alone = unthrottled(batches) if contender.bounded else None
    del batches
    result = merge(
        contender.name,
        contender.title,
        contender.note,
        recordings,
        unthrottled_tokens_per_s=alone,
        bounded=contender.bounded,
    )
    metrics.measured(result)
    return result, step_table(contender.name, recordings)


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
