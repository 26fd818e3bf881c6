"""The command line: what a run can be asked, and the words that `--help` has for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.starvation.cards.model import SIZES
from benchmarks.starvation.cards.profiles import DEFAULT_PROFILE, PROFILES
from benchmarks.starvation.options import PEERS, Options

EXAMPLES = """\
examples:
  # Stoker beside the same text tokenized while training; then open report/report.html
  python -m benchmarks.starvation --data tokens/v1 --text corpus/ --output report/
  # an S3 that is 20 ms away, other libraries, and a second method that must agree
  python -m benchmarks.starvation --data tokens/v1 --latency 0 20 --peers --ladder
  # how many workers your own loader needs: feed.py has make(workers=0), which returns batches
  python -m benchmarks.starvation --data tokens/v1 --loader feed:make --sweep-workers 0 1 2 4
  # real steps on a GPU, or on 8; was it better last week?
  python -m benchmarks.starvation --data s3://tokens/v1 --model 1b --ranks 8
  python -m benchmarks.starvation --data tokens/v1 --compare last-week/report.json
  # does it name what is wrong? faults put in on purpose
  python -m benchmarks.starvation --self-test

What each figure and cause means: docs/starvation.md
"""


def parse(arguments: Sequence[str] | None = None) -> Options | None:
    """What the arguments ask for; None for the self-test alone, which needs no data.

    Raises:
        SystemExit: the arguments are wrong, or ask for help.
        StokerError: an option can't have such a value.
    """
    parser = make_parser()
    chosen: dict[str, Any] = vars(parser.parse_args(arguments))
    if chosen["data"] is None:
        if not chosen["self_test"]:
            parser.error("the following arguments are required: --data")
        return None
    lists = {name: tuple(chosen[name] or ()) for name in ("text", "latency", "sweep_workers")}
    lists["peers"] = PEERS if chosen["peers"] == [] else tuple(chosen["peers"] or ())
    return Options(**chosen | lists)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation",
        usage="%(prog)s --data URI [--text URI ...] [--output FOLDER] [options]",
        description="Measure how long an accelerator waits for input, and for what. Without a GPU\n"
        "it emulates one: steps of a published length, kept by a deadline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    _add(
        what,
        "--peers",
        "other libraries that `make peers` installed, over the same tokens (without names: all)",
        nargs="*",
        choices=PEERS,
    )
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
    _add(
        how,
        "--seconds",
        "at most, for a contender's warm-up, and again for its window",
        60.0,
        type=float,
    )
    _add(how, "--workers", "processes that tokenize inline; 0: one a core", 0, type=int)
    _add(
        how,
        "--sweep-workers",
        "try so many workers besides: where do more not help? (--text, --peers, --loader)",
        nargs="+",
        type=int,
        metavar="N",
    )
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
    _add(
        parser,
        "--metrics-port",
        "serve Prometheus metrics of the run to this machine, 9405 for example",
        type=int,
    )
    return parser


def _add(
    to: argparse._ActionsContainer, name: str, text: str, default: object = None, **more: object
) -> None:
    shown = text if default is None else f"{text} (default: {default})"
    to.add_argument(name, help=shown, default=default, **more)  # type: ignore[arg-type]
