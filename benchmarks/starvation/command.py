"""How long an accelerator starves: one training loop, fed by Stoker and by inline tokenization.

python -m benchmarks.starvation --data s3://tokens/v1 --text s3://corpus/ --output report/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.command import guarded
from benchmarks.environment import environment
from benchmarks.starvation.accelerator import (
    Accelerator,
    Batch,
    EmulatedAccelerator,
)
from benchmarks.starvation.compare import compare, read_report
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.gather import gather
from benchmarks.starvation.ladder import Card, climb, rungs
from benchmarks.starvation.launch import launch
from benchmarks.starvation.lineup import make_contenders, make_stoker, resident_batch
from benchmarks.starvation.measure import Plan, record, unthrottled
from benchmarks.starvation.merge import merge
from benchmarks.starvation.model import SIZES
from benchmarks.starvation.options import Options as Options
from benchmarks.starvation.pick import pick_accelerator
from benchmarks.starvation.prices import Price, price_of
from benchmarks.starvation.profiles import DEFAULT_PROFILE, PROFILES, Profile
from benchmarks.starvation.progress import Progress
from benchmarks.starvation.report import Report, console_table, interval
from benchmarks.starvation.result import Ladder, Result
from benchmarks.starvation.selftest import self_test
from benchmarks.starvation.steps import step_table, write_steps
from benchmarks.starvation.world import World, joined, told
from shards.dataset import Dataset, open_dataset
from shards.errors import StokerError


def run(options: Options, job: Mapping[str, str] | None = None) -> Report:
    """Measure every contender; write report.json, .html, .md and the steps into `options.output`.

    `job`: facts about the job that made the data, for the page.

    Raises:
        StokerError: no such dataset or text; fewer samples than one batch; no such older report.
    """
    # Before anything is measured: a wrong file should not cost minutes.
    older = None if options.compare is None else read_report(options.compare)
    with joined(options.ranks) as world:
        report, tables = run_as(world, options, job)
        if world.rank == 0:
            report.write(options.output, older)
            write_steps(tables, options.output)
    return report


def run_as(
    world: World, options: Options, job: Mapping[str, str] | None
) -> tuple[Report, list[pa.Table]]:
    """This rank's part of `run`: the report of all ranks, and their steps."""
    dataset = open_dataset(options.data)
    profile = PROFILES[options.profile]
    accelerator = pick_accelerator(options, dataset.manifest.tokenizer.vocab_size, world)
    with closing(accelerator):
        contenders, left_out = make_contenders(
            options, dataset, pin=torch.cuda.is_available(), world=world
        )
        measured = [measure(each, accelerator, options, world) for each in contenders]
    ladder = climb_ladder(options) if options.ladder else None
    controls = tuple(self_test()) if options.self_test else ()
    report = Report(
        accelerator=accelerator.title,
        emulated=accelerator.emulated,
        results=tuple(result for result, _ in measured),
        left_out=left_out,
        device=describe_device(accelerator, profile, options),
        data=describe_data(dataset, options),
        setup=describe_setup(options, world),
        environment=environment(),
        cards=options.cards * world.size,
        job=job or {},
        price=find_price(options, emulated=accelerator.emulated),
        ladder=ladder,
        controls=controls,
    )
    return report, [table for _, table in measured]


def measure(
    contender: Contender, accelerator: Accelerator, options: Options, world: World
) -> tuple[Result, pa.Table]:
    """Run one contender in the loop, seed by seed, then alone; its result and its steps.

    Every rank of `world` does so at the same time, and gets what all of them saw.
    """
    plan = Plan(options.steps, options.warmup, options.seconds)
    recordings = []
    total = options.seeds * (options.steps + plan.allowance)
    with contender.ready(), Progress(contender.title, total) as progress:
        for seed in range(options.seeds):
            # The run before is let go first, with its threads and processes.
            batches: Iterator[Batch] = iter(())
            common = world.plan(plan, f"{contender.name}/{seed}")
            world.barrier()
            recording, batches = record(
                lambda: progress.watch(contender.open()), accelerator, common, progress.step, seed
            )
            recordings += gather(replace(recording, timeline=contender.timeline()))
        progress.now(f"{contender.title}, unthrottled")
        # All ranks at once: their loaders share this machine, as they do in training.
        world.barrier()
        alone = world.mean(unthrottled(batches)) if contender.bounded else None
    del batches
    result = merge(
        contender.name,
        contender.title,
        contender.note,
        recordings,
        unthrottled_tokens_per_s=alone,
        bounded=contender.bounded,
    )
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
        total = len(levels) * options.seeds * (options.steps + plan.allowance)
        with Progress("ladder", total) as progress:
            return climb(levels, card, plan, options.seeds, progress.step)


def find_price(options: Options, *, emulated: bool) -> Price | None:
    """What the node costs: as chosen, else that of the profile's, else nobody knows."""
    known = price_of(options.profile) if emulated else None
    if options.price is None:
        return known
    node = known or Price("this node", options.price, options.cards)
    return replace(node, usd_per_hour=options.price, source="--price", date="given")


def compared(older: Mapping[str, Any], report: Report) -> str:
    """The comparison in lines: what is more than noise, and what it can't be trusted for."""
    found = compare(older, report)
    lines = [found.verdict]
    lines += [
        f"  {change.judgement}: {change.contender} {change.figure}"
        f" {interval(change.figure, change.old)} -> {interval(change.figure, change.new)}"
        for change in found.changes
        if change.judgement != "noise"
    ]
    lines += [f"  careful: {doubt}" for doubt in found.doubts]
    lines += [f"  not the same: {n}: {a} -> {b}" for n, (a, b) in found.conditions.items()]
    return "\n".join(lines)


def describe_device(accelerator: Accelerator, profile: Profile, options: Options) -> dict[str, str]:
    """Facts about the accelerator, for the page."""
    if not isinstance(accelerator, EmulatedAccelerator):
        step = "forward, backward, AdamW; a Llama with random weights"
        cuda = {"CUDA": str(torch.version.cuda)} if torch.cuda.is_available() else {}
        return {"device": accelerator.title, "step": step} | cuda
    batch_size, seq_len = options.shape
    fixed = profile.fixed_ns * options.scale / 1e6
    return {
        "profile": profile.name,
        "source": profile.source,
        "cards": str(options.cards),
        "time scale": f"{options.scale:g} (1: as published)",
        "step": f"{accelerator.step_ns(batch_size * seq_len) / 1e6:.1f} ms",
        "of it fixed": f"{fixed:.2f} ms (optimizer, derived)",
        "host to device": f"{_link(options) / options.scale / 1e9:g} GB/s a card",
    }


def _link(options: Options) -> float:
    return options.node.h2d_bytes_per_s or PROFILES[options.profile].h2d_bytes_per_s


def describe_data(dataset: Dataset, options: Options) -> dict[str, str]:
    """Facts about the token dataset, for the page."""
    stream = dataset.stream(options.split)
    return {
        "dataset": options.data,
        "split": options.split,
        "documents": f"{stream.documents:,}",
        "tokens": f"{stream.tokens:,}",
        "tokenizer": dataset.manifest.tokenizer.name,
        "text": " ".join(options.text) or "-",
    }


def describe_setup(options: Options, world: World) -> dict[str, str]:
    """Facts about the loop, for the page."""
    batch_size, seq_len = options.shape
    return {
        "batch": f"{batch_size} x {seq_len} tokens",
        "steps": f"{options.steps} after {options.warmup or 'as many as it takes'} of warm-up",
        "seeds": str(options.seeds),
        "at most": f"{options.seconds:g} s a contender",
        "inline workers": str(options.inline_workers),
        **({"ranks": f"{world.size} processes, by {world.backend}"} if world.size > 1 else {}),
    }


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation",
        description="Measure how long an accelerator waits for input, and for what. Without a GPU"
        " it emulates one: steps of a published length, kept by a deadline.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to feed")
    _add(what, "--data", "token dataset: folder or s3://bucket/prefix (needed but for --self-test)")
    _add(what, "--split", "split of the dataset", "train")
    _add(
        what,
        "--text",
        "the text it was made of, as pipelines/tokenize.py takes it: adds inline tokenization",
        nargs="+",
        metavar="URI",
    )
    _add(what, "--text-column", "column or JSON field with the text", "text")
    _add(what, "--text-split", "documents of text files", "file", choices=("file", "line"))
    _add(
        what,
        "--latency",
        "the data, a folder, also from an S3 server here that holds requests back so long",
        nargs="+",
        type=float,
        metavar="MS",
    )
    _add(what, "--padded", "HF tokenizer's folder: adds the deck's collate of --text")
    _add(what, "--loader", "your own: function() returns batches", metavar="MODULE:FUNCTION")
    how = parser.add_argument_group("how to train")
    _add(
        how,
        "--profile",
        "model and, without a GPU, the card that is emulated",
        DEFAULT_PROFILE,
        choices=tuple(PROFILES),
    )
    _add(
        how,
        "--model",
        "train this Llama with real steps: on a GPU, or tiny on the CPU (default: the profile's on"
        " a GPU, else the card is emulated)",
        choices=tuple(SIZES),
    )
    how.add_argument(
        "--gradient-checkpointing", action="store_true", help="activations are computed twice"
    )
    _add(how, "--cards", "data-parallel cards that share a batch (emulated)", 1, type=int)
    _add(
        how,
        "--time-scale",
        "0.5: steps take half their time (emulated; default: 1, 0.04 for steps above 0.1 s)",
        type=float,
    )
    _add(how, "--host-busy-ms", "launching a step takes so long (emulated)", 0.0, type=float)
    _add(how, "--h2d-gb-s", "host to device (emulated; default: the profile's)", type=float)
    how.add_argument("--pageable", action="store_true", help="memory not page-locked (emulated)")
    _add(how, "--seq-len", "tokens a sample (default: the profile's)", type=int)
    _add(how, "--batch-size", "samples a step (default: the profile's, for each card)", type=int)
    _add(how, "--steps", "steps measured", 200, type=int)
    _add(
        how,
        "--ranks",
        "processes that train together, a batch and a loader each (default: 1, or torchrun's)",
        type=int,
    )
    _add(how, "--seeds", "times that each contender is measured", 3, type=int)
    _add(how, "--warmup", "steps before the window opens (default: found by MSER-5)", type=int)
    _add(how, "--seconds", "at most, for either of the two", 60.0, type=float)
    _add(how, "--workers", "processes that tokenize inline; 0: one a core", 0, type=int)
    _add(how, "--price", "US dollars an hour of the node (default: the profile's)", type=float)
    _add(parser, "--output", "folder for report.html and the rest", Path("report"), type=Path)
    parser.add_argument(
        "--ladder", action="store_true", help="check Stoker's causes by taking them away one by one"
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="put in faults that must be named; without --data nothing else",
    )
    _add(parser, "--compare", "an older report.json: better, worse or noise?", type=Path)
    return parser


def _add(
    to: argparse._ActionsContainer, name: str, text: str, default: object = None, **more: object
) -> None:
    shown = text if default is None else f"{text} (default: {default})"
    to.add_argument(name, help=shown, default=default, **more)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = make_parser()
    chosen = vars(parser.parse_args(arguments))
    testing = chosen["data"] is None
    if testing and not chosen["self_test"]:
        parser.error("the following arguments are required: --data")

    def test() -> None:
        if failed := [control.name for control in self_test() if not control.passed]:
            raise StokerError(f"the report did not name what was put in: {', '.join(failed)}")

    def work() -> None:
        lists = {name: tuple(chosen[name] or ()) for name in ("text", "latency")}
        options = Options(**chosen | lists)
        if (options.ranks or 1) > 1 and told() is None:
            launch(sys.argv[1:] if arguments is None else arguments, options.ranks or 1)
            return
        report = run(options)
        if (told() or (0, 1))[0] > 0:
            return
        print(f"\n{report.verdict}\n\n{console_table(report)}\n")
        if options.compare is not None:
            print(compared(read_report(options.compare), report) + "\n")
        for name in ("report.html", "report.md", "report.json", "steps.parquet"):
            print(options.output / name)

    return guarded("starvation", test if testing else work)
