"""The limit of the tokenize job: decode and encode the files, and nothing else.

python -m benchmarks.limit --tokenizer NAME [--engine gigatoken] [--processes N] FILE...

pyarrow's decode and the engine's encode in as many processes as there are cores: no end tokens, no
shards, no checksums, nothing written. All begin together, when each has loaded its tokenizer.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.text import text_bytes
from benchmarks.watch import result_line
from pipelines.options import ENGINES
from pipelines.tokenizer import load_tokenizer

_BATCH = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its last line is for `benchmarks.watch`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--engine", choices=ENGINES[1:], default="gigatoken")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args(arguments)
    tokenizer = load_tokenizer(chosen.tokenizer)
    end_id = tokenizer.end_id
    assert end_id is not None, "asked for without an end token"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(chosen.processes)
    start = (tokenizer.blob, chosen.engine, barrier)
    with context.Pool(chosen.processes, _begin, start) as pool:
        step = chosen.processes
        parts = [(chosen.files[first::step], chosen.column) for first in range(step)]
        done = pool.starmap(_encode, parts, chunksize=1)
    documents = sum(one[4] for one in done)
    result_line(
        began=min(one[0] for one in done),
        ended=max(one[1] for one in done),
        text_bytes=sum(one[2] for one in done),
        # As if each document had its end token, to compare with all others.
        tokens=sum(one[3] for one in done) + documents,
        ids_sum=sum(one[5] for one in done) + documents * end_id,
        cpu_s=sum(one[6] for one in done),
    )
    return 0


_engine: Any = None
_barrier: Any = None


def _begin(blob: str, engine: str, barrier: Any) -> None:
    global _engine, _barrier
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pa.set_cpu_count(1)
    _engine, _barrier = (_gigatoken if engine == "gigatoken" else _tokenizers)(blob), barrier


def _gigatoken(blob: str) -> Any:
    import awkward as ak
    from gigatoken.gigatoken_rs import load_hf_json

    content = json.loads(blob)
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
    tokenizer = load_hf_json(json.dumps(content).encode())

    def encode(documents: pa.LargeStringArray) -> Any:
        layout = tokenizer.encode_batch(ak.from_arrow(documents), parallel=False).layout
        return np.asarray(layout.content.data)

    return encode


def _tokenizers(blob: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(blob)
    tokenizer.encode_special_tokens = True

    def encode(documents: pa.LargeStringArray) -> Any:
        done = tokenizer.encode_batch_fast(documents.to_pylist(), add_special_tokens=False)
        return np.concatenate([np.zeros(0, np.uint32), *(one.ids for one in done)])

    return encode


def _encode(files: Sequence[str], column: str) -> tuple[float, float, int, int, int, int, float]:
    """(begin, end, text bytes, tokens, documents, sum of ids, CPU seconds)."""
    _barrier.wait()
    start, cpu = time.monotonic(), time.process_time()
    size = tokens = count = total = 0
    for documents in _batches(files, column):
        ids = _engine(documents)
        tokens += len(ids)
        total += int(ids.sum(dtype=np.uint64))
        size += text_bytes(documents)
        count += len(documents)
    return start, time.monotonic(), size, tokens, count, total, time.process_time() - cpu


def _batches(files: Sequence[str], column: str) -> Iterator[pa.LargeStringArray]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH, columns=[column]):
            yield batch.column(0).cast(pa.large_string())


if __name__ == "__main__":
    sys.exit(main())
