"""The embedded corpus is real, deterministic text, made once; its tokenizer loads everywhere."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from benchmarks.corpus import END_TOKEN, Corpus, default_roots, make_corpus, train_tokenizer
from pipelines.allow import refusal
from shards.errors import StokerError


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, ...]:
    """Two folders of text with everything in them that must be left out."""
    first, second = tmp_path_factory.mktemp("stdlib"), tmp_path_factory.mktemp("packages")
    (first / "b.py").write_text("def b():\n    return 'ü'\n" * 20)
    (first / "a.py").write_text("def a():\n    return 'ö'\n" * 20)
    (first / "notes.rst").write_text("Notes\n=====\n" * 40)
    (first / "short.txt").write_text("short")
    (first / "data.bin").write_bytes(b"x" * 1000)
    (first / "latin.txt").write_bytes("ü".encode("latin-1") * 500)
    (first / "site-packages").mkdir()
    (first / "site-packages" / "hidden.txt").write_text("a root of its own\n" * 40)
    (second / "copy.py").write_text((first / "a.py").read_text())
    (second / "readme.md").write_text("# Read me\n" * 40)
    return first, second


def texts(corpus: Corpus) -> list[tuple[str, str]]:
    rows = [row for file in corpus.files for row in pq.read_table(file).to_pylist()]
    return [(row["path"], row["text"]) for row in rows]


def test_it_holds_every_text_once_prose_first_and_nothing_else(roots, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", roots=roots)
    rows = texts(corpus)
    assert [path for path, _ in rows] == ["readme.md", "notes.rst", "a.py", "b.py"]
    assert corpus.documents == 4
    assert corpus.text_bytes == sum(len(text.encode()) for _, text in rows)


def test_the_same_machine_gives_the_same_bytes(roots, tmp_path):
    first = make_corpus(tmp_path / "1", roots=roots)
    again = make_corpus(tmp_path / "2", roots=roots)
    assert [f.read_bytes() for f in first.files] == [f.read_bytes() for f in again.files]


def test_it_is_written_once_and_again_when_other_text_is_asked_for(roots, tmp_path):
    folder = tmp_path / "corpus"
    first = make_corpus(folder, roots=roots)
    before = [f.stat().st_mtime_ns for f in first.files]
    assert make_corpus(folder, roots=roots) == first
    assert [f.stat().st_mtime_ns for f in first.files] == before
    smaller = make_corpus(folder, target_bytes=1000, files=2, roots=roots)
    assert smaller.documents < first.documents
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f.name for f in smaller.files), "_corpus.json"]
    )


def test_a_half_written_corpus_is_made_again(roots, tmp_path):
    folder = tmp_path / "corpus"
    corpus = make_corpus(folder, roots=roots)
    corpus.files[0].unlink()
    assert make_corpus(folder, roots=roots) == corpus
    assert corpus.files[0].exists()
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_a_folder_of_someone_else_is_left_alone(roots, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(StokerError, match="holds other files"):
        make_corpus(folder, roots=roots)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_no_text_at_all_is_an_error_that_says_where_it_looked(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StokerError, match=r"no text files below .*empty"):
        make_corpus(tmp_path / "corpus", roots=[tmp_path / "empty"])


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[Corpus, Path]:
    folder = tmp_path_factory.mktemp("real")
    corpus = make_corpus(folder / "corpus", target_bytes=6_000_000, files=3, roots=default_roots())
    tokenizer = train_tokenizer(folder / "tokenizer", corpus, vocabulary=2000, sample_bytes=500_000)
    return corpus, tokenizer


def test_this_machine_has_enough_text_for_several_units(real):
    corpus, _ = real
    assert corpus.text_bytes == pytest.approx(6_000_000, rel=0.2)
    assert len(corpus.files) == 3
    assert all(pq.ParquetFile(f).num_row_groups >= 1 for f in corpus.files)


def test_the_tokenizer_loads_ends_documents_and_loses_nothing(real):
    corpus, folder = real
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == END_TOKEN
    assert len(tokenizer) == 2000
    for _, text in texts(corpus)[:50]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("special_tokens", ["text", "control"])
def test_the_fast_engine_takes_the_tokenizer(real, special_tokens):
    content = json.loads((real[1] / "tokenizer.json").read_text())
    assert refusal(content, special_tokens) is None


def test_a_trained_tokenizer_is_used_again(real):
    corpus, folder = real
    before = (folder / "tokenizer.json").stat().st_mtime_ns
    assert train_tokenizer(folder, corpus) == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == before
