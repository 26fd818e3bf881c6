"""All that is to be measured on a GPU, in one command, and the emulator compared with it.

python -m benchmarks.starvation.session --output docs/reports/

For each model: Stoker, local and from an S3 server of this machine, beside inline tokenization with
several numbers of workers and the deck's collate; then the same before an emulated card with the
times that were just measured. Needs no network and no Ray: text and tokenizer are made of what lies
on this machine. Without a GPU `--models tiny` tries the command itself out, on the CPU.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.command import guarded
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.starvation.cards.model import SIZES
from benchmarks.starvation.cards.pick import real_model
from benchmarks.starvation.checks import calibration
from benchmarks.starvation.checks.calibrate import calibrate
from benchmarks.starvation.checks.calibration import Calibration
from benchmarks.starvation.contenders import Contender
from benchmarks.starvation.contenders.lineup import INLINE, make_contenders, make_inline
from benchmarks.starvation.here import tokenize_here
from benchmarks.starvation.loop.measure import Plan
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from benchmarks.starvation.run import run
from pipelines.options import ReadOptions
from shards.dataset import Dataset, open_dataset

MODELS, LATENCIES, WORKERS = ("125m", "1b"), (0.0, 20.0, 100.0), (0, 2, 8)
WARMUP = 20
# Of a model's time the part for the emulated card; of the whole, what a model's share grows by.
EMULATED, WEIGHT = 0.2, {"1b": 2.0}
# Of each contender: opening it, taking it unthrottled, resuming, a server's start.
BESIDE_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is asked for; see `make_parser`. `text`, `tokenizer`: None: made of what is here."""

    output: Path
    models: tuple[str, ...] = MODELS
    minutes: float = 20.0
    steps: int = 300
    text_bytes: int = 50_000_000
    text: tuple[str, ...] = ()
    tokenizer: str | None = None
    workers: tuple[int, ...] = WORKERS
    latency: tuple[float, ...] = LATENCIES
    batch_size: int | None = None
    seq_len: int | None = None

    def seconds(self, minutes_left: float, model: str) -> tuple[float, float]:
        """`Plan.seconds` of each contender of `model`, before the real and the emulated card."""
        models = self.models[self.models.index(model) :]
        share = WEIGHT.get(model, 1.0) / sum(WEIGHT.get(each, 1.0) for each in models)
        # Resident, Stoker, the deck's collate, and one for each latency and number of workers.
        count = 3 + len(self.latency) + len(self.workers)
        each = 60 * minutes_left * share / count
        # A loop runs for twice that at most: warm-up and window.
        real, emulated = ((each * part - BESIDE_S) / 2 for part in (1 - EMULATED, EMULATED))
        return max(1.0, real), max(1.0, emulated)


@dataclass(frozen=True)
class Material:
    """Text, the folder of its tokenizer, and the token dataset made of both."""

    text: tuple[str, ...]
    tokenizer: str
    tokens: str


def hold(session: Session) -> tuple[Path, ...]:
    """Measure every model, then calibrate; the folders of the reports.

    Raises:
        StokerError: a model that can't be trained here; no such text.
    """
    deadline = time.monotonic() + 60 * session.minutes
    for model in session.models:
        # Before minutes are spent on data.
        real_model(Options(data="", output=session.output, model=model))
    folders, found = [], []
    with material(session) as made:
        for model in session.models:
            left = max(0.0, deadline - time.monotonic()) / 60
            folder, compared = train(session, made, model, left)
            folders.append(folder)
            found.append(compared)
            print(f"{folder / 'report.md'}\n{compared.words}", flush=True)
    if torch.cuda.is_available():
        print(calibration.write(found))
    return tuple(folders)


@contextmanager
def material(session: Session) -> Iterator[Material]:
    """In a temporary folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="stoker-session-") as name:
        folder = Path(name)
        text, tokenizer = session.text, session.tokenizer
        if not text or tokenizer is None:
            corpus = make_corpus(folder / "corpus", target_bytes=session.text_bytes)
            text = text or tuple(str(file) for file in corpus.files)
            tokenizer = tokenizer or str(train_tokenizer(folder / "tokenizer", corpus))
        yield Material(text, tokenizer, tokenize_here(text, tokenizer, folder / "tokens"))


def train(
    session: Session, made: Material, model: str, minutes_left: float
) -> tuple[Path, Calibration]:
    """One model's report, with how far the emulated card agrees with it in `calibration.json`."""
    real, emulated = session.seconds(minutes_left, model)
    s3, why = s3_here()
    options = Options(
        data=made.tokens,
        output=Path(tempfile.mkdtemp(prefix=".session-", dir=_folder(session.output))),
        text=made.text,
        padded=made.tokenizer,
        latency=session.latency if s3 else (),
        model=model,
        batch_size=session.batch_size,
        seq_len=session.seq_len,
        steps=session.steps,
        warmup=WARMUP,
        seeds=1,
        seconds=real,
    )

    def line_up(
        options: Options, dataset: Dataset, pin: bool, world: World
    ) -> tuple[list[Contender], dict[str, str]]:
        contenders, left_out = make_contenders(options, dataset, pin, world)
        others = [each for each in contenders if each.name != "inline"]
        for workers in session.workers:
            others.append(inline(options, dataset, pin, world, workers))
        missing = {} if s3 or not session.latency else {"Stoker, S3": why}
        left_out = {title: words for title, words in left_out.items() if title != INLINE}
        return others, left_out | missing

    try:
        report = run(options, line_up=line_up)
        dataset = open_dataset(options.data)
        contenders, _ = line_up(options, dataset, False, World())
        steps = pq.read_table(options.output / "steps.parquet")
        plan = Plan(session.steps, WARMUP, emulated)
        compared = calibrate(report.document(), steps, contenders, plan)
        calibration.write([compared], options.output / "calibration.json")
        options.output.chmod(0o755)
        return options.output.rename(
            _unused(session.output / name_of(report.accelerator))
        ), compared
    finally:
        shutil.rmtree(options.output, ignore_errors=True)


def inline(options: Options, dataset: Dataset, pin: bool, world: World, workers: int) -> Contender:
    """Inline tokenization with so many workers; with none the loop itself tokenizes."""
    reading = ReadOptions(options.text_column, options.text_split)
    made = make_inline(replace(options, workers=max(1, workers)), dataset, reading, pin, world)
    assert not isinstance(made, str), made
    made.workers, made.name = workers, f"inline-{workers}"
    made.title = f"{INLINE}, {workers} worker{'' if workers == 1 else 's'}"
    return made


def s3_here() -> tuple[bool, str]:
    """Whether this machine can serve and read S3, and else why not."""
    if shutil.which("rclone") is None and not Path(sys.executable).with_name("rclone").exists():
        return False, "there is no rclone, which would be the server"
    try:
        import s3torchconnector  # noqa: F401
    except ImportError:
        return False, "there is no s3torchconnector"
    return True, ""


def name_of(accelerator: str) -> str:
    """`2026-11-24-nvidia-h100-80gb-hbm3-llama-125m-bfloat16`."""
    words = re.sub(r"[^a-z0-9]+", "-", accelerator.lower()).strip("-")
    return f"{datetime.now(UTC):%Y-%m-%d}-{words}"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _unused(path: Path) -> Path:
    """`path`, or with a number behind it where something is there already."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation.session",
        description="Measure on a GPU all that the starvation benchmark has, and calibrate.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="gets a folder a model, named by date and card")
    add("--models", nargs="+", choices=tuple(SIZES), default=MODELS, help="(default: 125m 1b)")
    add("--minutes", type=float, default=20.0, help="for all of it (default: 20)")
    add("--steps", type=int, default=300, help="of each contender, if time allows (default: 300)")
    add("--text", nargs="+", default=(), metavar="URI", help="(default: what lies on this machine)")
    add("--tokenizer", help="HF tokenizer's folder (default: one trained on that)")
    add("--text-bytes", type=int, default=50_000_000, help="of that text (default: 50,000,000)")
    add("--workers", nargs="+", type=int, default=WORKERS, help="that tokenize (default: 0 2 8)")
    add("--latency", nargs="*", type=float, default=LATENCIES, help="ms (default: 0 20 100)")
    add("--batch-size", type=int, help="(default: the model's)")
    add("--seq-len", type=int, help="(default: the model's)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    chosen = vars(make_parser().parse_args(arguments))
    lists = {name: tuple(chosen[name]) for name in ("models", "text", "workers", "latency")}

    def work() -> None:
        hold(Session(**chosen | lists))

    return guarded("session", work)


if __name__ == "__main__":
    sys.exit(main())
