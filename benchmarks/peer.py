"""The peer of the tokenize bench: the Ray Data job that one would write first."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.connect import quiet_ray_data, ray_cluster


@dataclass(frozen=True)
class Run:
    """One run: bytes of text, seconds until work began, seconds of work."""

    text_bytes: int
    startup_s: float
    steady_s: float

    @property
    def rate(self) -> float:
        """Text MB/s while working."""
        return self.text_bytes / 1e6 / self.steady_s

    @property
    def whole_rate(self) -> float:
        """Text MB/s, start-up included."""
        return self.text_bytes / 1e6 / (self.startup_s + self.steady_s)


def run_peer(files: Sequence[str], column: str, tokenizer: str) -> Run:
    """read_parquet, map_batches with transformers, write_parquet, on a Ray of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="stoker-peer-") as folder, ray_cluster():
        import ray.data

        quiet_ray_data()
        started = time.perf_counter()
        rows = ray.data.read_parquet(list(files)).select_columns([column])
        rows.map_batches(
            _encode_batch,
            fn_kwargs={"column": column, "name": tokenizer},
            batch_size=256,
            batch_format="pyarrow",
        ).write_parquet(folder)
        stopped = time.perf_counter()
    size = sum(file_text_bytes(file, column) for file in files)
    return Run(size, started - began, stopped - started)


def _encode_batch(batch: pa.Table, column: str, name: str) -> pa.Table:
    """Ids of a batch of text, an end token behind each document."""
    tokenizer = _loaded(name)
    ids = tokenizer(batch.column(column).to_pylist(), add_special_tokens=False)["input_ids"]
    return pa.table({"input_ids": [[*each, tokenizer.eos_token_id] for each in ids]})


@functools.cache
def _loaded(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)


def text_bytes(documents: pa.LargeStringArray) -> int:
    """UTF-8 bytes of all documents."""
    return int(pc.sum(pc.binary_length(documents)).as_py() or 0)


def file_text_bytes(file: Path | str, column: str) -> int:
    """UTF-8 bytes in a column of a Parquet file."""
    chunks = pq.read_table(file, columns=[column]).column(0).chunks
    return sum(text_bytes(chunk.cast(pa.large_string())) for chunk in chunks)
