"""Text in, fed accelerator out, in a minute: what `make demo` runs.

Real text of this machine becomes Parquet, a tokenizer is trained on it, Ray Data makes token
shards, the loader streams them into an accelerator, and a report says how long that one starved.
Every step leaves its result in the output folder, and a second run takes it from there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.command import guarded
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.starvation.options import Options as StarvationOptions
from benchmarks.starvation.reports.report import Report, console_table
from benchmarks.starvation.run import run as measure_starvation
from pipelines.job import Summary, run
from pipelines.options import Options
from shards.errors import StokerError
from shards.verify import verify

# Without a GPU: what a node of eight cards eats, in steps long enough for this machine's timers.
CARDS, ROWS, SEQ_LEN = 8, 256, 1024
GPU_ROWS = 32
# A dataset smaller than this many batches would be measured in ends of epochs.
BATCHES = 8
# Enough steps for a percentile, few enough for a minute; a loop that starves stops after SECONDS.
STEPS, WARMUP, SECONDS = 100, 10, 8.0


@dataclass(frozen=True)
class Demo:
    """What came out."""

    data: Path
    summary: Summary
    report: Report


class Steps:
    """Prints what is being done, and how long it took."""

    def __init__(self, total: int) -> None:
        self.total, self.number = total, 0
        self.began = perf_counter()

    def begin(self, what: str) -> None:
        """The next step starts."""
        self.number += 1
        self.began = perf_counter()
        print(f"[{self.number}/{self.total}] {what}", flush=True)

    def end(self, result: str) -> None:
        """The step has ended, with this result."""
        print(f"      {result}  ({perf_counter() - self.began:.1f} s)", flush=True)


def demo(inputs: Sequence[str], tokenizer: str | None, output: Path) -> Demo:
    """Run every step whose result is not there yet; then measure.

    `inputs` empty: the embedded corpus; `tokenizer` None: one trained on that corpus.

    Raises:
        StokerError: the input or the tokenizer can't be used, or `output` holds something else.
    """
    own = not inputs or tokenizer is None
    steps = Steps(5 if own else 3)
    data = output / tokens_folder(inputs, tokenizer)
    if own:
        steps.begin("text: this machine's own documentation and source, as Parquet")
        corpus = make_corpus(output / "corpus")
        steps.end(f"{corpus.documents:,} documents, {corpus.text_bytes / 1e6:.0f} MB")
        inputs = inputs or [str(path) for path in corpus.files]
        steps.begin("tokenizer: a byte-level BPE trained on it")
        tokenizer = tokenizer or str(train_tokenizer(output / "tokenizer", corpus))
        steps.end(tokenizer)
    assert tokenizer is not None
    steps.begin("tokenize: Ray Data on this machine's cores")
    options = Options(inputs=tuple(inputs), output=str(data), tokenizer=tokenizer, overwrite=True)
    summary = run(options, show_progress=True)
    steps.end(f"{summary.counts.tokens:,} tokens")
    steps.begin("verify: every checksum")
    steps.end(str(verify(str(data))))
    steps.begin("train: the same loop, fed three ways")
    report = measure_starvation(
        starvation_options(inputs, data, summary.counts.tokens, output),
        job_facts(summary),
    )
    steps.end(report.accelerator)
    return Demo(data, summary, report)


def job_facts(summary: Summary) -> dict[str, str]:
    """What the tokenize job did, for the page and the console."""
    facts = {
        "documents": f"{summary.counts.documents:,}",
        "text": f"{summary.counts.text_bytes / 1e6:.1f} MB",
        "tokens": f"{summary.counts.tokens:,}",
        "engine": f"{summary.engine}: {summary.reason}",
    }
    if summary.nothing_to_do:
        return facts | {"time": "made by an earlier run"}
    usage = summary.usage
    working = usage.tasks_s + usage.finish_s
    return facts | {
        "time": f"{usage.start_s:.1f} s to start, {working:.1f} s to tokenize and commit",
        "rate": f"{usage.text_mb_per_s:.0f} MB of text a second",
    }


def tokens_folder(inputs: Sequence[str], tokenizer: str | None) -> str:
    """Where the dataset goes: a folder for each choice of input and tokenizer."""
    if not inputs and tokenizer is None:
        return "tokens"
    chosen = "\n".join([*inputs, tokenizer or ""])
    return f"tokens-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"


def fit(tokens: int, rows: int) -> tuple[int, int]:
    """(batch_size, seq_len) for `tokens` in all: the wanted one, or what still makes an epoch.

    Raises:
        StokerError: hardly any text.
    """
    seq_len = min(SEQ_LEN, tokens // BATCHES)
    if seq_len < 16:
        raise StokerError(f"the input makes only {tokens} tokens: the demo needs a few hundred")
    return max(1, min(rows, tokens // seq_len // BATCHES)), seq_len


def starvation_options(
    inputs: Sequence[str], data: Path, tokens: int, output: Path
) -> StarvationOptions:
    """How the demo trains."""
    gpu = torch.cuda.is_available()
    batch_size, seq_len = fit(tokens, GPU_ROWS if gpu else ROWS)
    return StarvationOptions(
        data=str(data),
        text=tuple(inputs),
        output=output,
        cards=1 if gpu else CARDS,
        batch_size=batch_size,
        seq_len=seq_len,
        steps=STEPS,
        seeds=1,
        warmup=WARMUP,
        seconds=SECONDS,
    )


def closing(done: Demo, output: Path, seconds: float) -> str:
    """The last words: what happened, and where to look next."""
    facts = {**job_facts(done.summary), "all of it": f"{seconds:.0f} s"}
    width = max(map(len, facts))
    said = "\n".join(f"  {name:{width}}  {value}" for name, value in facts.items())
    return f"""
{done.report.verdict}

{console_table(done.report)}

{said}

Where to look next
  {output / "report.html"}  the picture
  python -m shards inspect {done.data}
  python -m shards sample {done.data}
  python -m benchmarks.starvation --help"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description="Tokenize real text, stream it into an accelerator, and report how it starved.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="URI",
        help="text of your own, as pipelines/tokenize.py takes it (default: this machine's"
        " documentation and source)",
    )
    parser.add_argument(
        "--tokenizer", help="name, folder or tokenizer.json (default: one trained on that text)"
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="default: demo")
    chosen = parser.parse_args(arguments)
    began = perf_counter()

    def work() -> None:
        done = demo(chosen.input, chosen.tokenizer, chosen.output)
        print(closing(done, chosen.output, perf_counter() - began))

    return guarded("demo", work)


if __name__ == "__main__":
    sys.exit(main())
