"""Text for benches: real at first, then ever new words, and always text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.text import runs, split_words, text_bytes, vary, write_text

TEXTS = [f"def resume_{n}(position):\n    return {n} * position  # étude {n}" for n in range(300)]
DOCUMENTS = pa.array(
    [*TEXTS, *(f"The tokenizer{chr(97 + n % 26) * 3} walks" for n in range(99))], pa.large_string()
)


@given(st.lists(st.text()))
def test_the_words_of_documents_put_together_again_are_the_documents(texts: list[str]) -> None:
    words = split_words(pa.array(texts, pa.large_string()))
    again = vary(words, 0)
    assert sorted(again.to_pylist()) == sorted(texts)
    again.validate(full=True)


def test_a_copy_has_new_words_and_the_same_punctuation() -> None:
    words = split_words(DOCUMENTS)
    first, second = (set(split_words(vary(words, n)).vocabulary.to_pylist()) for n in (0, 3))
    new = {word for word in second - first if word.isalpha()}
    assert new
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    shapes = [
        sorted("".join(c for c in text if c not in letters) for text in vary(words, n).to_pylist())
        for n in (0, 3)
    ]
    assert shapes[0] == shapes[1]


def test_a_slice_of_an_array_is_split_as_the_array_of_its_documents() -> None:
    part = DOCUMENTS.slice(7, 20)
    assert sorted(vary(split_words(part), 0).to_pylist()) == sorted(part.to_pylist())


def test_copies_are_the_same_on_every_run_and_differ_from_each_other() -> None:
    words = split_words(DOCUMENTS)
    assert vary(words, 2).equals(vary(split_words(DOCUMENTS), 2))
    assert not vary(words, 2).equals(vary(words, 3))


def test_written_text_reaches_the_wanted_bytes_and_begins_alike_whatever_they_are(
    tmp_path,
) -> None:
    for name, size in (("small", 40_000), ("large", 90_000)):
        (tmp_path / name).mkdir()
        files = write_text(tmp_path / name, DOCUMENTS, size)
        read = [pq.read_table(file)["text"].combine_chunks() for file in files]
        assert sum(map(text_bytes, read)) >= size
    small, large = (pq.read_table(tmp_path / n / "00000.parquet") for n in ("small", "large"))
    assert small.equals(large)


@given(st.lists(st.text(max_size=9)), st.integers(1, 30))
def test_runs_are_all_the_documents_in_order(texts: list[str], size: int) -> None:
    documents = pa.array(texts, pa.large_string())
    found = list(runs(documents, size))
    assert [text for run in found for text in run.to_pylist()] == texts
    assert all(text_bytes(run) <= size or len(run) == 1 for run in found)
