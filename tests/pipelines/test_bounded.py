"""Memory while reading: set by the longest document that is taken, not by the size of a file."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

pytestmark = pytest.mark.slow

MIB = 1 << 20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}
# Reads a file in a process of its own and prints what it took, growth of the peak in bytes.
READER = """
import json, sys
from pipelines.inputs import find_inputs
from pipelines.options import ReadOptions
from pipelines.plan import cut_units
from pipelines.read import read_unit
from shards.errors import StokerError
import pipelines.read_arrow, pipelines.read_jsonl, pipelines.read_lines, pipelines.read_parquet

from pipelines.resident import peak_bytes as peak
reading = ReadOptions(text_split=sys.argv[2])
[unit] = cut_units(find_inputs([sys.argv[1]]), 1 << 50, reading)
before, documents, size, error = peak(), 0, 0, ""
try:
    for batch in read_unit(unit, reading):
        documents += len(batch.documents) + len(batch.bad)
        size += batch.documents.nbytes
except StokerError as reason:
    error = str(reason)
print(json.dumps([documents, size, error, peak() - before]))
"""


def read(path: Path, split: str = "line") -> tuple[int, int, str, int]:
    """(rows, bytes of documents, error, growth of the peak of memory) of reading a file."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), split], capture_output=True, text=True, check=True
    )
    found: tuple[int, int, str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("suffix", COMPRESS)
def test_half_a_gib_of_lines_unfolds_in_little_memory(suffix: str, tmp_path: Path) -> None:
    member = COMPRESS[suffix]((b"a" * 1023 + b"\n") * (16 * 1024))
    path = tmp_path / f"bomb.txt{suffix}"
    path.write_bytes(member * 32)
    assert path.stat().st_size < 2 * MIB
    rows, _, error, growth = read(path)
    assert (rows, error) == (512 * 1024, "")
    assert growth < 150 * MIB


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["bomb.txt", "bomb.jsonl"])
def test_an_endless_line_is_refused_before_it_fills_the_memory(
    name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESS[suffix](b"a" * (16 * MIB)) * 256)
    _, _, error, growth = read(path)
    assert str(path) in error
    assert "longer than 256 MiB" in error
    assert growth < 400 * MIB


def test_one_row_group_of_many_batches_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    letters = np.random.default_rng(0).integers(97, 123, 256 * MIB, np.uint8)
    offsets = pa.py_buffer(np.arange(len(letters) // 4096 + 1, dtype=np.int64) * 4096)
    texts = pa.LargeStringArray.from_buffers(len(letters) // 4096, offsets, pa.py_buffer(letters))
    table = pa.table({"text": texts})
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False)
    assert pq.ParquetFile(path).num_row_groups == 1
    rows, size, error, growth = read(path)
    assert (rows, error) == (len(table), "")
    assert size > 256 * MIB
    assert growth < 120 * MIB


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet"])
def test_a_document_of_200_mb_is_read_with_a_few_copies_of_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    text = "some words in a very long line " * (200_000_000 // 31)
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["short", text, "short"]}), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("short", text, "short")))
    else:
        path.write_text(f"short\n{text}\nshort\n")
    rows, size, error, growth = read(path)
    assert (rows, error) == (3, "")
    assert size > len(text)
    assert growth < 6 * len(text)
