"""One small dataset for all tests here: made of real text by the real job."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.corpus import make_corpus, train_tokenizer
from pipelines.job import run
from pipelines.options import Options


@dataclass(frozen=True)
class Made:
    """A corpus, the tokenizer trained on it, and the token dataset made of both."""

    files: tuple[str, ...]
    tokenizer: str
    tokens: str


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    base = tmp_path_factory.getbasetemp()
    # Test processes of one run share it: whoever comes first makes it, the others wait.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            make(folder)
            (folder / "whole").touch()
    files = tuple(sorted(str(file) for file in (folder / "corpus").glob("*.parquet")))
    return Made(files, str(folder / "tokenizer"), str(folder / "tokens"))


def make(folder: Path) -> None:
    """The corpus, its tokenizer and its tokens in `folder`."""
    corpus = make_corpus(folder / "corpus", target_bytes=1_000_000, files=2)
    tokenizer = train_tokenizer(folder / "tokenizer", corpus, vocabulary=1000, sample_bytes=300_000)
    files = tuple(str(file) for file in corpus.files)
    run(Options(inputs=files, output=str(folder / "tokens"), tokenizer=str(tokenizer)))
