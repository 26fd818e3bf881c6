"""Gigabytes of text that keeps bringing new words, made of a few megabytes of real text.

Copies of the same files would flatter any tokenizer that remembers words: from the second copy on
it has seen them all. So each copy renames words, as natural text brings new ones: about n^0.6
distinct words after n bytes (Heaps' law), rare ones mostly. A new word is the first half of one
word of the corpus and the second half of another (`tokenizer` and `parallel`: `tokenllel`), so its
letters and its pieces stay those of the language; a word is renamed alike in a whole copy. The
order of documents changes from copy to copy; all that isn't ASCII letters stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

# Exponent of Heaps' law; 0.4-0.7 is found for English, code is at its upper end.
HEAPS = 0.6
SHORTEST_RENAMED = 5
FILE_BYTES = 20_000_000
ROW_GROUP_BYTES = 5_000_000


@dataclass(frozen=True)
class Words:
    """Documents as runs of ASCII letters and what is between them.

    Attributes:
        codes: int [pieces], into `vocabulary`.
        vocabulary: large_binary, the distinct pieces.
        counts: int64 [vocabulary], how often each comes.
        documents: int64 [documents + 1], where each begins, in pieces.
    """

    codes: pa.Array
    vocabulary: pa.Array
    counts: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]


def split_words(documents: pa.LargeStringArray) -> Words:
    """`documents` in pieces; put together again they are the same."""
    joined = pa.concat_arrays([documents])
    offsets = np.frombuffer(joined.buffers()[1], np.int64)[joined.offset :][: len(joined) + 1]
    data = np.frombuffer(joined.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    starts = offsets - offsets[0]
    letters = ((data | 0x20) >= ord("a")) & ((data | 0x20) <= ord("z"))
    border = np.ones(len(data) + 1, np.bool_)
    np.not_equal(letters[1:], letters[:-1], out=border[1:-1])
    border[starts] = True
    borders = np.flatnonzero(border)
    pieces = pa.Array.from_buffers(
        pa.large_binary(),
        len(borders) - 1,
        [None, pa.py_buffer(borders.astype(np.int64)), pa.py_buffer(data)],
    ).dictionary_encode()
    counts = np.bincount(pieces.indices.to_numpy(), minlength=len(pieces.dictionary))
    return Words(pieces.indices, pieces.dictionary, counts, np.searchsorted(borders, starts))


def join_words(
    words: Words, vocabulary: pa.Array, order: npt.NDArray[np.int64]
) -> pa.LargeStringArray:
    """The documents of `words`, in this order, spelled with another `vocabulary`."""
    pieces = pc.take(vocabulary, words.codes)
    ends = np.frombuffer(pieces.buffers()[1], np.int64)[: len(pieces) + 1]
    bounds = ends[words.documents]
    documents = pa.Array.from_buffers(
        pa.large_string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pieces.buffers()[2]]
    )
    return documents.take(pa.array(order))


def vary(words: Words, copy: int, seed: int = 0) -> pa.LargeStringArray:
    """Copy number `copy` of the documents; number 0 has its words unchanged."""
    random = np.random.default_rng([seed, copy])
    order = random.permutation(len(words.documents) - 1)
    vocabulary = words.vocabulary
    if copy:
        share = (copy + 1) ** HEAPS - copy**HEAPS
        vocabulary = _rename(words, share, random)
    return join_words(words, vocabulary, order)


def _rename(words: Words, share: float, random: np.random.Generator) -> pa.Array:
    """The vocabulary with this share of its longer words renamed, the rarer the likelier."""
    spelled = words.vocabulary.to_pylist()
    lengths = pc.binary_length(words.vocabulary).to_numpy()
    long = np.flatnonzero(lengths >= SHORTEST_RENAMED)
    long = np.array([code for code in long if spelled[code].isalpha()], np.int64)
    if not len(long):
        return words.vocabulary
    rarity = words.counts[long] * random.exponential(size=len(long))
    chosen = long[np.argsort(rarity)[: int(share * len(long))]]
    for code, other in zip(chosen, random.choice(long, len(chosen)), strict=True):
        first, second = spelled[code], words.vocabulary[int(other)].as_py()
        spelled[code] = first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
    return pa.array(spelled, pa.large_binary())


def write_text(
    folder: Path, documents: pa.LargeStringArray, wanted_bytes: int, column: str = "text"
) -> list[str]:
    """Parquet files of about `FILE_BYTES` of text each, zstd, `wanted_bytes` in all; their paths.

    The first files are the same whatever `wanted_bytes` is.
    """
    words = split_words(documents)
    files: list[str] = []
    left = wanted_bytes
    with tqdm(
        total=wanted_bytes, unit="B", unit_scale=True, desc="text", leave=False, disable=None
    ) as bar:
        copy = 0
        while left > 0:
            for run in runs(vary(words, copy), FILE_BYTES):
                path = folder / f"{len(files):05d}.parquet"
                with pq.ParquetWriter(
                    path, pa.schema([(column, pa.large_string())]), compression="zstd"
                ) as writer:
                    for group in runs(run, ROW_GROUP_BYTES):
                        writer.write_table(pa.table({column: group}))
                size = text_bytes(run)
                files.append(str(path))
                left -= size
                bar.update(size)
                if left <= 0:
                    break
            copy += 1
    return files


def read_documents(files: Sequence[Path], column: str) -> pa.LargeStringArray:
    """The documents of Parquet files without those that hold a special token's beginning."""
    chunks = [c for file in files for c in pq.read_table(file, columns=[column]).column(0).chunks]
    documents = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in chunks])
    return documents.filter(pc.invert(pc.match_substring(documents, "<|")))


def runs(documents: pa.LargeStringArray, size: int) -> Iterator[pa.LargeStringArray]:
    """`documents` in runs of about `size` bytes of text, at least one document each."""
    ends = np.cumsum(pc.binary_length(documents).to_numpy(zero_copy_only=False), dtype=np.int64)
    first = 0
    while first < len(documents):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        yield documents.slice(first, last - first)
        first = last


def text_bytes(documents: pa.LargeStringArray) -> int:
    """UTF-8 bytes of all documents."""
    return int(pc.sum(pc.binary_length(documents)).as_py() or 0)


def file_text_bytes(file: Path | str, column: str) -> int:
    """UTF-8 bytes in a column of a Parquet file."""
    chunks = pq.read_table(file, columns=[column]).column(0).chunks
    return sum(text_bytes(chunk.cast(pa.large_string())) for chunk in chunks)
