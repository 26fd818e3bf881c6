"""How long an accelerator starves: one training loop, fed by Stoker and by inline tokenization.

python -m benchmarks.starvation --data s3://tokens/v1 --text s3://corpus/ --output report/
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.command import guarded
from benchmarks.environment import environment
from benchmarks.starvation.accelerator import (
    Accelerator,
    Batch,
    EmulatedAccelerator,
    pick_accelerator,
)
from benchmarks.starvation.contenders import (
    Contender,
    InlineTokenization,
    ResidentBatch,
    Stoker,
    find_units,
)
from benchmarks.starvation.measure import Plan, record, unthrottled
from benchmarks.starvation.merge import merge
from benchmarks.starvation.prices import price_of
from benchmarks.starvation.profiles import DEFAULT_PROFILE, PROFILES, Profile
from benchmarks.starvation.report import Report, console_table
from benchmarks.starvation.result import Result
from pipelines.options import ReadOptions
from shards.dataset import Dataset, open_dataset
from shards.errors import StokerError

INLINE = "inline tokenization"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked to do; the fields are the command's options of the same name.

    `text`: what `data` was made of, as `pipelines.tokenize --input` takes it; () leaves the inline
    contender out. `seq_len` and `batch_size`: None takes the profile's. `warmup`: None finds it.
    """

    data: str
    output: Path
    text: tuple[str, ...] = ()
    text_column: str = "text"
    text_split: str = "file"
    split: str = "train"
    profile: str = DEFAULT_PROFILE
    cards: int = 1
    time_scale: float = 1.0
    seq_len: int | None = None
    batch_size: int | None = None
    steps: int = 200
    seeds: int = 3
    warmup: int | None = None
    seconds: float = 60.0
    workers: int = 0

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise StokerError(f"no profile {self.profile!r}: choose one of {', '.join(PROFILES)}")
        for name in ("seq_len", "batch_size", "cards", "steps", "seeds", "warmup"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StokerError(f"{name} is {value}: it must be at least 1")
        for name in ("time_scale", "seconds"):
            if not getattr(self, name) > 0:
                raise StokerError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.workers < 0:
            raise StokerError(f"workers is {self.workers}: it can't be negative (0: one a core)")

    @property
    def shape(self) -> tuple[int, int]:
        """(batch_size, seq_len) of a batch, which the cards share."""
        profile = PROFILES[self.profile]
        return self.batch_size or self.cards * profile.batch_size, self.seq_len or profile.seq_len

    @property
    def inline_workers(self) -> int:
        """Worker processes of the inline contender: as many as there are cores, unless chosen."""
        return self.workers or len(os.sched_getaffinity(0))


def run(options: Options, job: Mapping[str, str] | None = None) -> Report:
    """Measure every contender; write report.json and report.html into `options.output`.

    `job`: facts about the job that made the data, for the page.

    Raises:
        StokerError: no such dataset or text; fewer samples than one batch.
    """
    dataset = open_dataset(options.data)
    profile = PROFILES[options.profile]
    vocabulary = dataset.manifest.tokenizer.vocab_size
    accelerator = pick_accelerator(
        profile, cards=options.cards, time_scale=options.time_scale, vocabulary=vocabulary
    )
    with closing(accelerator):
        contenders, left_out = make_contenders(options, dataset, pin=not accelerator.emulated)
        results = tuple(measure(each, accelerator, options) for each in contenders)
    report = Report(
        accelerator=accelerator.title,
        emulated=accelerator.emulated,
        results=results,
        left_out=left_out,
        device=describe_device(accelerator, profile, options),
        data=describe_data(dataset, options),
        setup=describe_setup(options),
        environment=environment(),
        cards=options.cards,
        job=job or {},
        price=price_of(options.profile) if accelerator.emulated else None,
    )
    report.write(options.output)
    return report


def make_contenders(
    options: Options, dataset: Dataset, *, pin: bool
) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of a run in the order of the report, and those left out, with the reason."""
    batch_size, seq_len = options.shape
    stoker = Stoker(options.data, seq_len, batch_size, options.split, pin_memory=pin)
    first = next(iter(stoker.open()))
    resident = {key: tensor.clone() for key, tensor in first.items()}
    if pin:
        resident = {key: tensor.pin_memory() for key, tensor in resident.items()}
    del first
    contenders: list[Contender] = [ResidentBatch(resident), stoker]
    if not options.text:
        return contenders, {INLINE: "it needs the text the data was made of: --text"}
    made_with = dataset.manifest.tokenizer
    if made_with.end_token is None or made_with.begin_token is not None:
        return contenders, {INLINE: "it writes end tokens alone, the data was made otherwise"}
    reading = ReadOptions(options.text_column, options.text_split)
    inline = InlineTokenization(
        find_units(options.text, options.inline_workers, reading),
        dataset.store.read(made_with.file).decode(),
        made_with.end_token.id,
        seq_len,
        batch_size,
        options.inline_workers,
        reading,
        made_with.special_tokens,
        pin,
    )
    return [*contenders, inline], {}


def measure(contender: Contender, accelerator: Accelerator, options: Options) -> Result:
    """Run one contender in the loop, seed by seed, then alone."""
    plan = Plan(options.steps, options.warmup, options.seconds)
    recordings = []
    with (
        contender.ready(),
        tqdm(
            total=options.seeds * (options.steps + plan.allowance),
            desc=contender.title,
            unit="step",
            leave=False,
            disable=None,
        ) as bar,
    ):
        for seed in range(options.seeds):
            # The run before is let go first, with its threads and processes.
            batches: Iterator[Batch] = iter(())
            recording, batches = record(
                contender.open, accelerator, plan, lambda _: bar.update(), seed
            )
            recordings.append(replace(recording, timeline=contender.timeline()))
        bar.set_description(f"{contender.title}, unthrottled")
        alone = unthrottled(batches) if contender.bounded else None
    del batches
    return merge(
        contender.name,
        contender.title,
        contender.note,
        recordings,
        unthrottled_tokens_per_s=alone,
        bounded=contender.bounded,
    )


def describe_device(accelerator: Accelerator, profile: Profile, options: Options) -> dict[str, str]:
    """Facts about the accelerator, for the page."""
    if not isinstance(accelerator, EmulatedAccelerator):
        return {"device": accelerator.title, "CUDA": str(torch.version.cuda)}
    batch_size, seq_len = options.shape
    fixed = profile.fixed_ns * options.time_scale / 1e6
    return {
        "profile": profile.name,
        "source": profile.source,
        "cards": str(options.cards),
        "time scale": f"{options.time_scale:g} (1: as published)",
        "step": f"{accelerator.step_ns(batch_size * seq_len) / 1e6:.1f} ms",
        "of it fixed": f"{fixed:.2f} ms (optimizer, derived)",
        "host to device": f"{profile.h2d_bytes_per_s / options.time_scale / 1e9:g} GB/s a card",
    }


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


def describe_setup(options: Options) -> dict[str, str]:
    """Facts about the loop, for the page."""
    batch_size, seq_len = options.shape
    return {
        "batch": f"{batch_size} x {seq_len} tokens",
        "steps": f"{options.steps} after {options.warmup or 'as many as it takes'} of warm-up",
        "seeds": str(options.seeds),
        "at most": f"{options.seconds:g} s a contender",
        "inline workers": str(options.inline_workers),
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
    _add(what, "--data", "token dataset: folder or s3://bucket/prefix", required=True)
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
    how = parser.add_argument_group("how to train")
    _add(
        how,
        "--profile",
        "model and, without a GPU, the card that is emulated",
        DEFAULT_PROFILE,
        choices=tuple(PROFILES),
    )
    _add(how, "--cards", "data-parallel cards that share a batch (emulated)", 1, type=int)
    _add(how, "--time-scale", "0.5: steps take half their time (emulated)", 1.0, type=float)
    _add(how, "--seq-len", "tokens a sample (default: the profile's)", type=int)
    _add(how, "--batch-size", "samples a step (default: the profile's, for each card)", type=int)
    _add(how, "--steps", "steps measured", 200, type=int)
    _add(how, "--seeds", "times that each contender is measured", 3, type=int)
    _add(how, "--warmup", "steps before the window opens (default: found by MSER-5)", type=int)
    _add(how, "--seconds", "at most, for either of the two", 60.0, type=float)
    _add(how, "--workers", "processes that tokenize inline; 0: one a core", 0, type=int)
    _add(parser, "--output", "folder for report.json and report.html", Path("report"), type=Path)
    return parser


def _add(
    to: argparse._ActionsContainer, name: str, text: str, default: object = None, **more: object
) -> None:
    shown = text if default is None else f"{text} (default: {default})"
    to.add_argument(name, help=shown, default=default, **more)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    chosen = vars(make_parser().parse_args(arguments))

    def work() -> None:
        options = Options(**chosen | {"text": tuple(chosen["text"] or ())})
        report = run(options)
        print(f"\n{report.verdict}\n\n{console_table(report)}\n")
        print(f"{options.output / 'report.html'}\n{options.output / 'report.json'}")

    return guarded("starvation", work)
