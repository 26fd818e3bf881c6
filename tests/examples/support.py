"""The examples run as a person runs them, and what they were trained on."""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from loaders import TokenDataset
from tests.datasets import write_dataset
from tests.loaders.support import token_loader
from tests.pipelines.processes import process

SEQ_LEN = 32
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def write_small_dataset(uri: str, samples: int = 90, held_out: int = 10) -> str:
    """Two splits of tokens that are numbered throughout, so that no two rows are equal."""
    tokens = np.arange((samples + held_out) * SEQ_LEN + 9, dtype=np.uint16)
    train, validation = np.split(tokens, [samples * SEQ_LEN + 3])
    shards = [np.array_split(train, 5), np.array_split(validation, 3)]
    write_dataset(uri, shards, splits=["train", "validation"], vocab_size=len(tokens))
    return uri


@dataclass(frozen=True)
class Batch:
    """What the model was given once: its loss, and a number for the content of each row."""

    training: bool
    loss: float
    rows: tuple[int, ...]


def command(example: str, *arguments: object, ranks: int = 0) -> list[str]:
    """That of `docs/examples/EXAMPLE.py`; with `ranks`, by torchrun."""
    module = f"docs.examples.{example}"
    launcher = [sys.executable, "-m", module]
    if ranks:
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
        launcher = [sys.executable, "-m", *torchrun, "-m", module]
    return [*launcher, "--seq-len", str(SEQ_LEN), *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread a process: these models are smaller than what it costs to share them."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}


def run(example: str, *arguments: object, ranks: int = 0) -> str:
    """Runs it to its end, or ends it with all its ranks; what it wrote to the terminal."""
    with process(command(example, *arguments, ranks=ranks), environment(), REPOSITORY) as child:
        output, errors = child.communicate(timeout=280)
    assert child.returncode == 0, (output + errors)[-6000:]
    return output + errors


def given(output: Path, rank: int = 0, *, training: bool = True) -> list[Batch]:
    """The batches that a rank was given, in training or in evaluation, over all of its runs."""
    lines = (output / f"batches-rank{rank}.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    batches = [Batch(one["training"], one["loss"], tuple(one["rows"])) for one in found]
    return [batch for batch in batches if batch.training == training]


def rows(batches: Sequence[Batch]) -> list[tuple[int, ...]]:
    """Their rows alone."""
    return [batch.rows for batch in batches]


def together(first: Sequence[Batch], second: Sequence[Batch]) -> list[tuple[int, ...]]:
    """The global batches of two ranks: row k of rank r is row 2 k + r."""
    pairs = zip(rows(first), rows(second), strict=True)
    return [tuple(row for both in zip(*pair, strict=True) for row in both) for pair in pairs]


def expected(uri: str, batch_size: int, steps: int, seed: int = 0) -> list[tuple[int, ...]]:
    """The rows of the first batches, from a loader that nobody drives but this test."""
    loader = token_loader(TokenDataset(uri, SEQ_LEN), batch_size, shuffle=True, seed=seed)
    batches = islice(loader.repeat(), steps)
    return [tuple(zlib.crc32(row.tobytes()) for row in b["input_ids"].numpy()) for b in batches]


def run_twice(
    example: str,
    output: Path,
    *arguments: object,
    again: Sequence[object] = (),
    lose: str = "",
    ranks: int = 0,
) -> tuple[list[Batch], list[Batch]]:
    """What rank 0 was given in an undisturbed run, and in one that goes on from its checkpoint.

    Args:
        again: more arguments of the second run.
        lose: the checkpoint that the framework made at its end, as if it had been killed before.
    """
    run(example, "--output", output, *arguments, ranks=ranks)
    undisturbed = given(output)
    if lose:
        shutil.rmtree(output / lose)
    run(example, "--output", output, *arguments, *again, ranks=ranks)
    return undisturbed, given(output)[len(undisturbed) :]
