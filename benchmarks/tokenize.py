"""Text MB/s of the tokenize job, beside its physical limit and beside a plain Ray Data job.

python -m benchmarks.tokenize [--input URI...] [--tokenizer NAME]

The limit is pyarrow's decode and gigatoken's encode of the same files in as many processes as
there are cores, and nothing else: no end tokens, no shards, no checksums. The peer is what one
would write first: read_parquet, map_batches with transformers, write_parquet, on a smaller part of
the text. Rounds are interleaved; medians count.
"""

import os
import sys

# As in pipelines/tokenize.py: run by path, this file would hide the standard library's tokenize.
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.command import guarded
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.peer import Run, file_text_bytes, run_peer, text_bytes
from pipelines.options import parse_size
from pipelines.tokenizer import load_tokenizer

LIMIT, JOB, PEER = "pyarrow + gigatoken", "Stoker's job", "Ray Data + transformers"


def run_limit(files: Sequence[str], column: str, blob: str, processes: int) -> Run:
    """Decode and encode, each process its part of the files, all beginning together."""
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with context.Pool(processes, _begin_limit, (blob, barrier)) as pool:
        parts = [(files[number::processes], column) for number in range(processes)]
        results = pool.starmap(_limit, parts, chunksize=1)
    first = min(start for start, _, _ in results)
    last = max(stop for _, stop, _ in results)
    return Run(sum(size for *_, size in results), first - began, last - first)


_tokenizer: Any = None
_barrier: Barrier


def _begin_limit(blob: str, barrier: Barrier) -> None:
    global _tokenizer, _barrier
    os.environ["RAYON_NUM_THREADS"] = "1"
    pa.set_cpu_count(1)
    from gigatoken.gigatoken_rs import load_hf_json

    content = json.loads(blob)
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
    _tokenizer, _barrier = load_hf_json(json.dumps(content).encode()), barrier


def _limit(files: Sequence[str], column: str) -> tuple[float, float, int]:
    """(begin, end, text bytes); perf_counter is one clock for all processes of a machine."""
    import awkward as ak

    _barrier.wait()
    start, size = time.perf_counter(), 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024, columns=[column]):
            documents = batch.column(0).cast(pa.large_string())
            _tokenizer.encode_batch(ak.from_arrow(documents), parallel=False)
            size += text_bytes(documents)
    return start, time.perf_counter(), size


def run_job(files: Sequence[str], column: str, tokenizer: str) -> Run:
    """The whole job into a new folder: its own Ray, plan, shards, checksums, commit."""
    from pipelines.job import run
    from pipelines.options import Options

    with tempfile.TemporaryDirectory(prefix="stoker-tokenize-") as folder:
        summary = run(
            Options(inputs=tuple(files), output=folder, tokenizer=tokenizer, text_column=column)
        )
    usage = summary.usage
    return Run(usage.text_bytes, usage.start_s, usage.tasks_s + usage.finish_s)


def copies(files: Sequence[Path], folder: Path, wanted_bytes: int, text_bytes: int) -> list[str]:
    """Copies of `files` that hold `wanted_bytes` of text, so that start-up does not decide."""
    made: list[str] = []
    for number in range(max(1, -(-wanted_bytes // text_bytes))):
        for file in files:
            target = folder / f"{number:03d}-{file.name}"
            shutil.copyfile(file, target)
            made.append(str(target))
    return made


def table(runs: dict[str, list[Run]]) -> str:
    """Medians of each contender and its ratio to the limit, while working and start-up included."""
    limit = statistics.median(run.rate for run in runs[LIMIT])
    lines = [
        f"{'':26} {'text MB':>8} {'start-up s':>11} {'MB/s':>8} {'of limit':>9} {'whole MB/s':>11}"
    ]
    for name, these in runs.items():
        rate = statistics.median(run.rate for run in these)
        startup = statistics.median(run.startup_s for run in these)
        whole = statistics.median(run.whole_rate for run in these)
        size = these[0].text_bytes / 1e6
        lines.append(
            f"{name:26} {size:8.0f} {startup:11.1f} {rate:8.1f} {rate / limit:9.3f} {whole:11.1f}"
        )
    job, peer = (statistics.median(run.rate for run in runs[name]) for name in (JOB, PEER))
    return "\n".join([*lines, f"{JOB} / {PEER}: {job / peer:.0f}x"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokenize", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", type=Path, help="Parquet files (None: the demo's corpus)")
    add("--text-column", default="text", help="column with the text")
    add("--tokenizer", help="name or folder (None: the demo's)")
    add("--demo", type=Path, default=Path("demo"), help="where the demo's corpus is, or goes")
    add("--text-bytes", type=parse_size, default="400M", help="text: the input is copied so often")
    add("--peer-files", type=int, default=2, help="files that the peer is given")
    add("--rounds", type=int, default=3, help="times each is run")
    chosen = parser.parse_args(arguments)
    return guarded("tokenize", lambda: print(compare(chosen)))


def compare(chosen: argparse.Namespace) -> str:
    """Run every contender `rounds` times in turn; the table."""
    files, tokenizer, column = chosen.input, chosen.tokenizer, chosen.text_column
    if not files or not tokenizer:
        corpus = make_corpus(chosen.demo / "corpus")
        files = files or list(corpus.files)
        # A worker of Ray has another working folder.
        trained = (chosen.demo / "tokenizer").resolve()
        tokenizer = tokenizer or str(train_tokenizer(trained, corpus))
    size = sum(file_text_bytes(file, column) for file in files)
    cores = len(os.sched_getaffinity(0))
    runs: dict[str, list[Run]] = {LIMIT: [], JOB: [], PEER: []}
    with tempfile.TemporaryDirectory(prefix="stoker-text-") as folder:
        inputs = copies(files, Path(folder), chosen.text_bytes, size)
        blob = load_tokenizer(tokenizer).blob
        contenders = {
            LIMIT: lambda: run_limit(inputs, column, blob, cores),
            JOB: lambda: run_job(inputs, column, tokenizer),
            PEER: lambda: run_peer(inputs[: chosen.peer_files], column, tokenizer),
        }
        with tqdm(
            total=3 * chosen.rounds, desc="tokenize", unit="run", leave=False, disable=None
        ) as bar:
            for _ in range(chosen.rounds):
                for name, once in contenders.items():
                    bar.set_description(name)
                    runs[name].append(once())
                    bar.update()
    return table(runs)


if __name__ == "__main__":
    sys.exit(main())
