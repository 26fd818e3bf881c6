"""Text in, fed accelerator out, in one minute: what `make demo` runs.

Real text of this machine becomes Parquet, a tokenizer is trained on it, Ray Data makes token shards,
the loader streams them into an accelerator, and a report says how long that one starved. Every step
leaves its result in the output folder, and a second run takes it from there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks import starvation
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.report import Report, console_table
from pipelines.job import Summary, run
from pipelines.options import Options
from shards.errors import StokerError
from shards.verify import verify

# Enough steps for a percentile, few enough for a minute; the loop stops at SECONDS when it starves.
STEPS, WARMUP, SECONDS = 120, 10, 12.0


@dataclass(frozen=True)
class Demo:
    """What the demo was made from, and what came out."""

    inputs: tuple[str, ...]
    tokenizer: str
    tokens: Path
    summary: Summary
    report: Report


def demo(inputs: Sequence[str], tokenizer: str | None, output: Path) -> Demo:
    """Run every step whose result is not there yet; then measure.

    `inputs` empty: the embedded corpus; `tokenizer` None: one trained on that corpus.

    Raises:
        StokerError: the user's own input or tokenizer can't be used.
    """
    if not inputs or tokenizer is None:
        with step(1, "real text of this machine, as Parquet") as say:
            corpus = make_corpus(output / "corpus")
            say(f"{corpus.documents:,} documents, {corpus.text_bytes / 1e6:.0f} MB")
        inputs = inputs or [str(path) for path in corpus.files]
    if tokenizer is None:
        with step(2, "a byte-level BPE trained on it") as say:
            tokenizer = str(train_tokenizer(output / "tokenizer", corpus))
            say(tokenizer)
