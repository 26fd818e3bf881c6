"""What every peer's script is given and prints. Standard library only: it runs in their venvs."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """Tokenize `column` of Parquet `files` into `output` with `workers`, an end token a document.

    `tokenizer` is a folder with tokenizer.json and tokenizer_config.json.
    """

    files: list[str]
    column: str
    tokenizer: str
    end_token: str
    output: Path
    workers: int


def read_task() -> Task:
    """The task on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--column", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--end-token", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    return Task(**vars(parser.parse_args()))


class Clock:
    """From the peer's own call to its end; imports before it are start-up."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ended = self.began

    def stop(self) -> None:
        """The peer has ended; what follows only counts."""
        self.ended = time.monotonic()

    def result(self, tokens: int, ids_sum: int) -> None:
        """Prints what the benchmark reads: tokens in the output, and the sum of their ids."""
        line = {"began": self.began, "ended": self.ended, "tokens": tokens, "ids_sum": ids_sum}
        print("\n" + json.dumps(line), flush=True)
