"""One small dataset for all tests here: made of real text by the real job."""

from __future__ import annotations

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
    folder: Path = tmp_path_factory.mktemp("made")
    corpus = make_corpus(folder / "corpus", target_bytes=1_000_000, files=2)
    tokenizer = train_tokenizer(folder / "tokenizer", corpus, vocabulary=1000, sample_bytes=300_000)
    files = tuple(str(file) for file in corpus.files)
    run(Options(inputs=files, output=str(folder / "tokens"), tokenizer=str(tokenizer)))
    return Made(files, str(tokenizer), str(folder / "tokens"))
