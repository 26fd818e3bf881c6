"""The deck's Llama-3.2-1B fine-tuning loop, reproduced, and Stoker's packed loader beside it.

python -m benchmarks.starvation.deck --text wikitext-2/ --tokenizer llama-3/ --output report/deck
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks.command import guarded
from benchmarks.environment import environment
from benchmarks.starvation.deck.loop import (
    BATCH_SIZE,
    MAX_LENGTH,
    Material,
    count_deck,
    material,
    time_card,
)
from benchmarks.starvation.deck.result import Deck, DeckCard
from benchmarks.starvation.deck.words import console
from benchmarks.starvation.describe import (
    describe_data,
    describe_device,
    describe_setup,
    find_price,
)
from benchmarks.starvation.measure import Plan
from benchmarks.starvation.options import Options
from benchmarks.starvation.pick import pick_accelerator
from benchmarks.starvation.profiles import PROFILES
from benchmarks.starvation.report import Report
from benchmarks.starvation.steps import write_steps
from benchmarks.starvation.trial import measure
from benchmarks.starvation.world import World
from pipelines.options import ReadOptions
from shards.dataset import open_dataset

# The cards that the deck's job ran on; on a real GPU its model counts and neither of them.
CARDS = ("l40s-1b-deck", "a100-1b-deck")


@dataclass(frozen=True, kw_only=True)
class DeckOptions:
    """What the command is asked; `text` and `tokenizer` as the fields of `Options` and `padded`."""

    text: tuple[str, ...]
    tokenizer: str
    output: Path
    text_column: str = "text"
    text_split: str = "line"
    profiles: tuple[str, ...] = CARDS
    time_scale: float | None = None
    steps: int = 200
    seeds: int = 3
    warmup: int | None = None
    seconds: float = 300.0
    batch_size: int = BATCH_SIZE
    max_length: int = MAX_LENGTH


def run(options: DeckOptions) -> list[Report]:
    """Count, then train both ways on each card; a report of each card in a folder of its name.

    All of them hold the table of all cards.

    Raises:
        StokerError: no such text, tokenizer or profile.
    """
    gpu = torch.cuda.is_available()
    profiles = options.profiles[:1] if gpu else options.profiles
    reading = ReadOptions(options.text_column, options.text_split)
    shape = {"batch_size": options.batch_size, "max_length": options.max_length}
    with material(options.text, options.tokenizer, reading, **shape, pin_memory=gpu) as made:
        deck = count_deck(made)
        measured = [_measure(options, made, deck, profile) for profile in profiles]
    deck = replace(deck, cards=tuple(card for _, card, _ in measured))
    reports = []
    for report, card, tables in measured:
        folder = options.output / card.profile
        reports.append(replace(report, deck=deck))
        reports[-1].write(folder)
        write_steps(tables, folder)
    return reports


def _measure(
    options: DeckOptions, made: Material, deck: Deck, name: str
) -> tuple[Report, DeckCard, list[pa.Table]]:
    """Both ways on one card: its report without the table, its part of the table, its steps."""
    asked = Options(
        data=made.packed.uri,
        output=options.output,
        text=options.text,
        profile=name,
        time_scale=options.time_scale,
        batch_size=options.batch_size,
        seq_len=options.max_length,
        steps=options.steps,
        seeds=options.seeds,
        warmup=options.warmup,
        seconds=options.seconds,
    )
    profile = PROFILES[name]
    dataset = open_dataset(asked.data)
    accelerator = pick_accelerator(asked, made.vocabulary)
    scale = asked.scale if accelerator.emulated else 1.0
    with closing(accelerator):
        plan = Plan(options.steps, options.warmup, options.seconds)
        both = (made.padded, made.packed)
        ways = [measure(way, accelerator, plan, options.seeds) for way in both]
        card = time_card(deck, profile, [result for result, _ in ways], accelerator, scale)
        report = Report(
            accelerator=accelerator.title,
            emulated=accelerator.emulated,
            results=tuple(result for result, _ in ways),
            left_out={},
            device=describe_device(accelerator, profile, asked),
            data=describe_data(dataset, asked) | {"dataset": "made for this run of the text"},
            setup=_setup(asked),
            environment=environment(),
            price=find_price(asked, emulated=accelerator.emulated),
        )
    return report, card, [table for _, table in ways]


def _setup(asked: Options) -> dict[str, str]:
    said = describe_setup(asked, World())
    said.pop("inline workers", None)
    return said | {"padded": f"rows cut to {asked.seq_len} tokens", "packed": "best_fit"}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation.deck",
        description="The deck's fine-tuning loop (rows of WikiText-2 cut to 512 tokens, 16 padded"
        " to the longest) and Stoker's packed rows of the same text, on the deck's cards: emulated,"
        " or the GPU that torch sees.",
        allow_abbrev=False,
    )

    def add(name: str, text: str, default: object = None, **more: object) -> None:
        shown = text if default is None else f"{text} (default: {default})"
        parser.add_argument(name, help=shown, default=default, **more)  # type: ignore[arg-type]

    add("--text", "Parquet, JSON lines or text: a row a sample", nargs="+", required=True)
    add("--tokenizer", "folder of Llama 3's HF tokenizer", required=True)
    add("--output", "gets a folder with a report for each card", Path("report/deck"), type=Path)
    add("--text-column", "column or JSON field with the text", "text")
    add("--profile", "cards that are emulated", list(CARDS), nargs="+", choices=tuple(PROFILES))
    add("--time-scale", "0.5: steps take half their time (emulated; default: 0.04)", type=float)
    add("--steps", "steps measured", 200, type=int)
    add("--seeds", "times that each way is measured", 3, type=int)
    add("--warmup", "steps before the window opens (default: found by MSER-5)", type=int)
    add("--seconds", "at most, for either of the two", 300.0, type=float)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    chosen = vars(make_parser().parse_args(arguments))

    def work() -> None:
        lists = {"text": tuple(chosen.pop("text")), "profiles": tuple(chosen.pop("profile"))}
        options = DeckOptions(**chosen | lists)
        reports = run(options)
        assert reports[0].deck is not None
        print("\n" + console(reports[0].deck) + "\n")
        for report, card in zip(reports, reports[0].deck.cards, strict=True):
            print(report.verdict)
            print(options.output / card.profile / "report.html")

    return guarded("deck", work)
