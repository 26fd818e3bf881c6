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
# What the last quarter's memory may be above the second one's: freed memory that the C library
# keeps in pieces grows for a while, by less than this, where what is in use stays the same.
RSS_GROWTH = 1.05


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the beginning, bytes, counts."""

    seconds: float
    rss: int
    threads: int
    files: int
    sockets: int


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

    @property
    def rss_growth(self) -> float:
        """Median memory of the last quarter over that of the second, in which it has settled."""
        second, last = (median(one.rss for one in self.quarters()[part]) for part in (1, 3))
        return last / second

    def grown(self) -> list[str]:
        """What isn't flat, in words.

        Threads come and go between two epochs, so the last quarter's median is held against the
        most that was seen in the first half. A connection to the store stays when it has been
        used, and one more is opened whenever more reads are under way than ever: as many as there
        are threads is what there may be.
        """
        first, second, _, last = self.quarters()
        found = []
        for name in ("threads", "files"):
            most = max(getattr(one, name) for one in (*first, *second))
            now = median(getattr(one, name) for one in last)
            if now > most:
                found.append(f"{name} {now:g}, at most {most} in the first half")
        sockets, threads = (
            max(getattr(one, name) for one in self.samples) for name in ("sockets", "threads")
        )
        if sockets > threads:
            found.append(f"{sockets} sockets for {threads} threads")
        if self.rss_growth > RSS_GROWTH:
            found.append(f"memory x {self.rss_growth:.3f}, of {RSS_GROWTH} allowed")
        return found

    @property
    def flat(self) -> bool:
        """Whether nothing has grown."""
        return not self.grown()

    def table(self) -> str:
        """Quarters, and the verdict."""
        lines = [
            f"{'quarter':>8} {'minutes':>8} {'RSS MiB':>18} {'threads':>12} {'files':>12} "
            f"{'sockets':>12}"
        ]
        for number, part in enumerate(self.quarters(), 1):
            lines.append(
                f"{number:8} {part[-1].seconds / 60:8.1f} "
                f"{_range([one.rss / 2**20 for one in part]):>18} "
                f"{_range([one.threads for one in part]):>12} "
                f"{_range([one.files for one in part]):>12} "
                f"{_range([one.sockets for one in part]):>12}"
            )
        seconds = self.samples[-1].seconds
        lines.append(
            f"{self.tokens / 1e9:.1f} G tokens in {seconds / 60:.1f} minutes, "
            f"{self.tokens / self.epoch_tokens:.1f} epochs; smallest / median / largest look"
        )
        verdict = "; ".join(self.grown())
        lines.append(
            f"NOT flat: {verdict}"
            if verdict
            else f"flat: memory x {self.rss_growth:.3f} from the second quarter to the last"
        )
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
            after = time.monotonic() - began
            samples.append(Sample(after, seen.rss, seen.threads, seen.files, seen.sockets))
            bar.update(round(spent) - bar.n)
    return samples, read


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} / {median(values):.0f} / {max(values):.0f}"
