"""Streaming from S3 for a long time: do memory, threads and file descriptors stay flat?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from benchmarks.loading.contest import BUCKET, make_data
from benchmarks.loading.delay import delayed
from benchmarks.loading.driver import Contender, Entry
from benchmarks.loading.entries import STREAMED, TOKENS, streaming
from benchmarks.loading.tree import look
from benchmarks.s3_server import serve_s3
from shards.errors import StokerError

ROWS, SEQ_LEN = 8, 2048
LOOKS = 240
# What the last quarter's memory may be above the second one's: allocators keep some of what they
# had, and 2 % of it is below what a leak of one batch an epoch would be.
RSS_GROWTH = 1.02


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the beginning, bytes, counts."""

    seconds: float
    rss: int
    threads: int
    files: int


@dataclass(frozen=True)
class Soak:
    """All looks, in order, and what was read meanwhile."""

    samples: tuple[Sample, ...]
    tokens: int
    epoch_tokens: int

    def quarters(self) -> list[tuple[Sample, ...]]:
        """The looks in four parts; what a first look at the beginning saw belongs to the first."""
        size = len(self.samples) / 4
        return [self.samples[round(part * size) : round((part + 1) * size)] for part in range(4)]

    def growth(self, name: str) -> float:
        """Median of the last quarter over that of the second, while which it has settled."""
        second, last = (
            median(getattr(one, name) for one in self.quarters()[part]) for part in (1, 3)
        )
        return float(last / second)

    @property
    def flat(self) -> bool:
        """Threads and descriptors no more, memory no more than `RSS_GROWTH` says."""
        more = max(self.growth("threads"), self.growth("files"))
        return more <= 1.0 and self.growth("rss") <= RSS_GROWTH

    def table(self) -> str:
        """Quarters, and the verdict."""
        lines = [f"{'quarter':>8} {'minutes':>8} {'RSS MiB':>18} {'threads':>12} {'files':>12}"]
        for number, part in enumerate(self.quarters(), 1):
            lines.append(
                f"{number:8} {part[-1].seconds / 60:8.1f} "
                f"{_range([one.rss / 2**20 for one in part]):>18} "
                f"{_range([one.threads for one in part]):>12} "
                f"{_range([one.files for one in part]):>12}"
            )
        grown = ", ".join(
            f"{what} x {self.growth(name):.3f}"
            for what, name in (("memory", "rss"), ("threads", "threads"), ("files", "files"))
        )
        seconds = self.samples[-1].seconds
        lines.append(
            f"{self.tokens / 1e9:.1f} G tokens in {seconds / 60:.1f} minutes, "
            f"{self.tokens / self.epoch_tokens:.1f} epochs; smallest / median / largest look"
        )
        lines.append(f"{'flat' if self.flat else 'NOT flat'}: last over second quarter, {grown}")
        return "\n".join(lines)

    def content(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"flat": self.flat, **asdict(self)}


def soak(seconds: float, tokens: int, latency_ms: float) -> Soak:
    """Streams through memory for a quarter of the data, epoch after epoch, and looks at times.

    Raises:
        StokerError: the loader failed, or it is too short for four quarters.
    """
    with (
        tempfile.TemporaryDirectory(prefix="stoker-soak-") as name,
        serve_s3(Path(name), etags=False) as server,
    ):
        data = make_data(Path(name) / "objects", tokens, ROWS, SEQ_LEN)
        options = {**streaming(data.bytes), "repeat": True}
        entry = Entry(STREAMED, "stoker", data=TOKENS, options=options)
        with delayed(server.endpoint, latency_ms) as near:
            environment = {**server.env, "AWS_ENDPOINT_URL": near}
            task = data.task(entry, f"s3://{BUCKET}")
            with Contender(entry, task, environment) as one:
                one.ask("open", state=None)
                samples, read = _watched(one, seconds)
    if len(samples) < 4:
        raise StokerError(f"{seconds:g} s are too short for a soak")
    return Soak(tuple(samples), read, data.tokens)


def _watched(one: Contender, seconds: float) -> tuple[list[Sample], int]:
    """A look between any two rounds: then nothing of the batch's own is under way."""
    samples, read = [], 0
    began = time.monotonic()
    step = max(seconds / LOOKS, 0.25)
    with tqdm(total=round(seconds), desc="soak", unit="s", leave=False, disable=None) as bar:
        while (spent := time.monotonic() - began) < seconds:
            read += one.ask("round", seconds=step, endless=True)["tokens"]
            seen = look(one.pid)
            samples.append(Sample(time.monotonic() - began, seen.rss, seen.threads, seen.files))
            bar.update(round(spent) - bar.n)
    return samples, read


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} / {median(values):.0f} / {max(values):.0f}"
