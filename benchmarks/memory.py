"""Memory of the tokenize job's workers over a long job, as a curve.

python -m benchmarks.memory [--text-bytes 20G] [--input URI...] [--output FOLDER]
python -m benchmarks.memory --engine [--text-bytes 1G]

The first runs the whole command over text that keeps bringing new words (benchmarks/text.py) and
looks at its workers once a second. The second encodes words of random letters, each of them new, in
this process and without Ray: the worst that gigatoken's caches can meet. Both print a line of bars
and write memory.json and memory.html.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import psutil
import pyarrow as pa
from tqdm import tqdm

from benchmarks.command import guarded
from benchmarks.contest import watch_stoker
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.environment import environment
from benchmarks.text import read_documents, write_text
from pipelines.options import ENGINES, parse_size, show_size
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError

CORPUS_BYTES = 200_000_000
AIM = 1_500_000_000
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
_STEP = 4 << 20
_DOCUMENT = 4096


@dataclass(frozen=True)
class Curve:
    """Memory of one process or of the largest of several.

    Attributes:
        title: what was measured.
        at: seconds, or bytes of text; `unit` says which.
        rss: bytes, one for each of `at`.
    """

    title: str
    unit: str
    at: tuple[float, ...]
    rss: tuple[int, ...]

    @property
    def peak(self) -> int:
        return max(self.rss)

    def growth(self) -> float:
        """The highest of the last quarter over the highest of the second: 1 when it is flat."""
        quarter = max(1, len(self.rss) // 4)
        return max(self.rss[-quarter:]) / max(self.rss[quarter : 2 * quarter] or self.rss)

    def __str__(self) -> str:
        return (
            f"{self.title}\n  {bars(self.rss)}\n  0 to {show_size(self.peak)}; at most "
            f"{self.peak / 1e6:,.0f} MB, last quarter / second quarter {self.growth():.2f}"
        )


def bars(values: Sequence[float], width: int = _WIDTH) -> str:
    """A line of blocks, the highest value of each stretch, 0 to the highest of all."""
    top = max(max(values, default=0), 1)
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)] if columns else []
    highest = [max(values[a:b]) for a, b in pairwise(edges)]
    return "".join(_BARS[min(7, int(8 * value / top))] for value in highest)


def novel_words(size: int, seed: int = 0) -> Iterator[pa.LargeStringArray]:
    """`size` bytes of words of random letters, 7 long on average, in documents of 4 KiB."""
    random = np.random.default_rng(seed)
    for _ in range(-(-size // _STEP)):
        text = random.integers(ord("a"), ord("z") + 1, _STEP, dtype=np.uint8)
        text[random.random(_STEP) < 1 / 8] = ord(" ")
        ends = np.arange(0, _STEP + 1, _DOCUMENT, dtype=np.int64)
        yield pa.Array.from_buffers(
            pa.large_string(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(text)]
        )


def engine_curve(tokenizer: str, size: int) -> Curve:
    """This process while it encodes `size` bytes of new words with the fast engine."""
    from pipelines.fast import FastEngine

    engine = FastEngine(load_tokenizer(tokenizer).blob, "text")
    process = psutil.Process()
    at, rss, done = [0.0], [process.memory_info().rss], 0
    with tqdm(total=size, unit="B", unit_scale=True, desc="memory", disable=None) as bar:
        for documents in novel_words(size):
            engine.encode(documents)
            done += _STEP
            at.append(float(done))
            rss.append(process.memory_info().rss)
            bar.update(_STEP)
    title = f"gigatoken in one process over {done / 1e9:.1f} GB of words that are all new"
    return Curve(title, "bytes of text", tuple(at), tuple(rss))


def job_curve(files: Sequence[str], column: str, tokenizer: str, engine: str) -> Curve:
    """The largest of the job's workers, second by second."""
    with tempfile.TemporaryDirectory(prefix="stoker-memory-") as folder:
        seen, report = watch_stoker(files, column, tokenizer, engine, f"{folder}/tokens")
    workers = {one.pid for one in seen.curve if one.name.startswith("ray::MapBatch")}
    if not workers:
        raise StokerError("no worker was seen: the text is too short for a curve")
    largest: dict[float, int] = {}
    for one in seen.curve:
        if one.pid in workers:
            largest[one.seconds] = max(one.rss, largest.get(one.seconds, 0))
    title = (
        f"the largest of {len(workers)} workers over {report['bytes']['text'] / 1e9:.1f} GB of "
        f"text, {report['units']['done_now']} units, {report['engine']}"
    )
    return Curve(title, "seconds", tuple(largest), tuple(largest.values()))


def write_page(path: Path, curve: Curve) -> None:
    """The curve as a page that needs no network."""
    figure = go.Figure(go.Scatter(x=curve.at, y=[value / 1e6 for value in curve.rss], mode="lines"))
    figure.add_hline(y=AIM / 1e6, line_dash="dot", annotation_text="aim: 1.5 GB a worker")
    figure.update_layout(
        title=curve.title,
        xaxis_title=curve.unit,
        yaxis={"title": "memory (RSS), MB", "rangemode": "tozero"},
        template="plotly_white",
    )
    figure.write_html(path, include_plotlyjs=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--engine", action="store_true", help="the fast engine alone, over words that are all new")
    add("--text-bytes", type=parse_size, default="20G", help="of text to make")
    add("--input", nargs="+", type=Path, help="Parquet files of yours instead")
    add("--text-column", default="text", help="column with the text")
    add("--tokenizer", help="name or folder (None: one trained on this machine's text)")
    add("--which", choices=ENGINES, default="auto", help="engine of the job")
    add("--folder", type=Path, default=Path("demo/tokenize"), help="what is made once lies here")
    add("--output", type=Path, default=Path("demo/memory"), help="memory.json and memory.html")
    chosen = parser.parse_args(arguments)
    return guarded("memory", lambda: measure(chosen))


def measure(chosen: argparse.Namespace) -> None:
    """Measures, prints, writes."""
    tokenizer = chosen.tokenizer
    corpus = None
    if not tokenizer or not (chosen.engine or chosen.input):
        corpus = make_corpus(chosen.folder / "corpus", target_bytes=CORPUS_BYTES)
        tokenizer = tokenizer or str(train_tokenizer(chosen.folder / "tokenizer", corpus))
    tokenizer = os.path.realpath(tokenizer) if os.path.exists(tokenizer) else tokenizer
    with tempfile.TemporaryDirectory(prefix="stoker-text-") as folder:
        if chosen.engine:
            curve = engine_curve(tokenizer, chosen.text_bytes)
        else:
            files = [str(file.resolve()) for file in chosen.input or ()]
            if corpus is not None and not files:
                documents = read_documents(corpus.files, "text")
                files = write_text(Path(folder), documents, chosen.text_bytes, chosen.text_column)
            curve = job_curve(files, chosen.text_column, tokenizer, chosen.which)
    print(curve)
    chosen.output.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "peak": curve.peak, **asdict(curve)}
    (chosen.output / "memory.json").write_text(json.dumps(content) + "\n")
    write_page(chosen.output / "memory.html", curve)
    print(f"  {chosen.output / 'memory.html'}")


if __name__ == "__main__":
    sys.exit(main())
