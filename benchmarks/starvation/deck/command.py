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
from benchmarks.starvation.cards.model import SIZES
from benchmarks.starvation.cards.pick import pick_accelerator
from benchmarks.starvation.cards.profiles import PROFILES
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
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from benchmarks.starvation.reports.report import Report
from benchmarks.starvation.reports.steps import write_steps
from benchmarks.starvation.run import try_out
from benchmarks.starvation.run_metrics import RunMetrics
from pipelines.options import ReadOptions
from shards.dataset import open_dataset

# The cards that the deck's job ran on, to be emulated; what it trained, for a real one.
CARDS = ("l40s-1b-deck", "a100-1b-deck")
MODEL = "1b"


@dataclass(frozen=True, kw_only=True)
class DeckOptions:
    """What the command is asked; the fields are the command's options of the same name.

    `profiles`: the cards to emulate, where no real step is run. `model`: whose real steps are; None
    is the deck's where torch sees a GPU.
    """

    text: tuple[str, ...]
    tokenizer: str
    output: Path
    text_column: str = "text"
    text_split: str = "line"
    profiles: tuple[str, ...] = CARDS
    model: str | None = None
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
    reading = ReadOptions(options.text_column, options.text_split)
    shape = {"batch_size": options.batch_size, "max_length": options.max_length}
    with material(options.text, options.tokenizer, reading, **shape, pin_memory=gpu) as made:
        deck = count_deck(made)
        asked = cards(options, made.packed.uri)
        measured = [_measure(each, made, deck, name) for name, each in asked.items()]
    deck = replace(deck, cards=tuple(card for _, card, _ in measured))
    reports = []
    for report, card, tables in measured:
        folder = options.output / card.name
        reports.append(replace(report, deck=deck))
        reports[-1].write(folder)
        write_steps(tables, folder)
    return reports


def cards(options: DeckOptions, uri: str) -> dict[str, Options]:
    """By its name each card that is to be fed from the dataset at `uri`: a real one, or emulated.

    A real one trains as the deck does, with gradient checkpointing.
    """
    same = Options(
        data=uri,
        output=options.output,
        text=options.text,
        time_scale=options.time_scale,
        batch_size=options.batch_size,
        seq_len=options.max_length,
        steps=options.steps,
        seeds=options.seeds,
        warmup=options.warmup,
        seconds=options.seconds,
    )
    model = options.model or (MODEL if torch.cuda.is_available() else None)
    if model is not None:
        return {f"real-{model}": replace(same, model=model, gradient_checkpointing=True)}
    return {name: replace(same, profile=name) for name in options.profiles}


def _measure(
    asked: Options, made: Material, deck: Deck, name: str
) -> tuple[Report, DeckCard, list[pa.Table]]:
    """Both ways on one card: its report without the table, its part of the table, its steps."""
    profile = PROFILES[asked.profile]
    accelerator = pick_accelerator(asked, made.vocabulary)
    scale = asked.scale if accelerator.emulated else 1.0
    with closing(accelerator):
        device = describe_device(accelerator, profile, asked)
        results, tables = [], []
        for way in (made.padded, made.packed):
            result, table, facts = try_out(way, accelerator, asked, World(), RunMetrics())
            results.append(result)
            tables.append(table)
            device |= facts
    source = profile.source if accelerator.emulated else "measured on it"
    report = Report(
        accelerator=accelerator.title,
        emulated=accelerator.emulated,
        results=tuple(results),
        left_out={},
        device=device,
        data=describe_data(open_dataset(asked.data), asked) | {"dataset": "made of the text"},
        setup=_setup(asked),
        asked_steps=asked.steps,
        environment=environment(),
        price=find_price(asked, emulated=accelerator.emulated),
    )
    titled = name, accelerator.title, accelerator.emulated, source
    return report, time_card(deck, titled, results, scale), tables


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
    add("--model", f"real steps of it (default: {MODEL} on a GPU)", choices=tuple(SIZES))
    add("--time-scale", "0.5: steps take half their time (emulated; default: 0.04)", type=float)
    add("--steps", "steps measured", 200, type=int)
    add("--seeds", "times that each way is measured", 3, type=int)
    add("--warmup", "steps before the window opens (default: found by MSER-5)", type=int)
    add(
        "--seconds",
        "at most, for a warm-up, and again for its window",
        300.0,
        type=float,
    )
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
            print(options.output / card.name / "report.html")

    return guarded("deck", work)
