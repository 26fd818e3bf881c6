"""What a run took: seconds of the clock, of CPUs and of slots, and the memory of its workers."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass

import numpy as np

from pipelines.cost import Projection, project
from pipelines.tasks import Outcome

# With less, starting workers decides how fast a run is, and its cost says nothing of a longer one.
_ENOUGH_TEXT = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A run's work and what it took. All but `cores` and `retries` is of the units done by it.

    A slot is one core that Ray gives to a unit: `cores x tasks_s` slot seconds could have been
    used, `unit_s` of them were, and in those a CPU worked for `unit_cpu_s`.

    Attributes:
        cores: CPUs that Ray had to give, at the end.
        input_bytes: as stored; text_bytes: UTF-8; shard_bytes: written.
        start_s: until Ray could take a task.
        tasks_s: from then to the last unit's end.
        finish_s: leaving Ray, and the commit.
        unit_s, unit_cpu_s: sums over units, clock and CPU (user and system).
        steady_mb_per_s: text while all cores were at work: from when each had ended a unit until
            the last task began, after which they run dry one by one; None with fewer than three
            units a core in between.
        peak_rss: bytes, the largest of any worker.
        audited: documents that were encoded again by the reference, and equal.
        retries: units begun again because their worker had died; None when nobody counted.
    """

    cores: float
    units: int
    input_bytes: int
    text_bytes: int
    shard_bytes: int
    tokens: int
    start_s: float
    tasks_s: float
    finish_s: float
    unit_s: float
    unit_cpu_s: float
    steady_mb_per_s: float | None
    peak_rss: int
    audited: int
    retries: int | None

    @property
    def text_mb_per_s(self) -> float:
        """While tasks could run, the commit included; MB are 10^6 bytes of UTF-8."""
        return self.text_bytes / 1e6 / max(self.tasks_s + self.finish_s, 1e-9)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.tasks_s + self.finish_s, 1e-9)

    @property
    def mb_per_s_per_core(self) -> float:
        """Text, at steady state where that is known, else while tasks could run."""
        rate = self.steady_mb_per_s or self.text_bytes / 1e6 / max(self.tasks_s, 1e-9)
        return rate / max(self.cores, 1e-9)

    @property
    def cpu_s_per_gb(self) -> float:
        """CPU seconds inside units for 10^9 bytes of text."""
        return self.unit_cpu_s / max(self.text_bytes / 1e9, 1e-9)

    @property
    def slots(self) -> dict[str, float]:
        """Shares of the slot seconds; they add up to 1.

        `no_unit` is Ray's share: workers that start, tasks on their way, and cores idle at the end.
        `waiting` is disk, network, and cores that other programs had.
        """
        all_s = max(self.cores * self.tasks_s, self.unit_s, 1e-9)
        busy = min(self.unit_cpu_s, self.unit_s)
        return {
            "on_cpu": busy / all_s,
            "waiting": (self.unit_s - busy) / all_s,
            "no_unit": (all_s - self.unit_s) / all_s,
        }

    @property
    def projection(self) -> Projection | None:
        """What 10^12 tokens would cost; None for a run too small to tell."""
        if self.text_bytes < _ENOUGH_TEXT:
            return None
        return project(
            text_bytes=self.text_bytes,
            tokens=self.tokens,
            input_bytes=self.input_bytes,
            shard_bytes=self.shard_bytes,
            mb_per_s_per_core=self.mb_per_s_per_core,
        )


class Stopwatch:
    """Gathers a run's `Usage` while it happens, in little memory however many units there are."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._tasks_at: float | None = None
        self._last_at: float | None = None
        self._cores = 0.0
        self._retries: int | None = None
        self._units = self._input = self._text = self._shards = self._tokens = self._peak = 0
        self._audited = 0
        self._unit_s = self._unit_cpu_s = 0.0
        # Of each unit: 24 MB of a million.
        self._ended, self._task_began, self._text_bytes = array("d"), array("d"), array("d")

    def tasks_start(self, cores: float) -> None:
        """Marks the end of the start-up; Ray has `cores` to give."""
        self._tasks_at, self._cores = time.monotonic(), cores

    def add(self, outcome: Outcome, input_bytes: int) -> None:
        """Takes a unit that is done now."""
        assert outcome.receipt is not None
        counts = outcome.receipt.counts
        self._last_at = time.monotonic()
        self._units += 1
        self._input += input_bytes
        self._text += counts.text_bytes
        self._tokens += counts.tokens
        self._shards += sum(shard.bytes for shard in outcome.receipt.shards)
        self._unit_s += outcome.seconds
        self._unit_cpu_s += outcome.cpu_seconds
        self._peak = max(self._peak, outcome.peak_rss)
        self._audited += outcome.audited
        self._ended.append(outcome.ended)
        self._task_began.append(outcome.task_began)
        self._text_bytes.append(counts.text_bytes)

    def tasks_end(self, cores: float, retries: int | None) -> None:
        """Marks the end of the tasks; `cores`: a cluster may have grown meanwhile."""
        self._cores, self._retries = max(self._cores, cores), retries

    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def usage(self) -> Usage:
        """What was taken until now."""
        tasks_at = self._began if self._tasks_at is None else self._tasks_at
        last_at = tasks_at if self._last_at is None else self._last_at
        return Usage(
            cores=self._cores,
            units=self._units,
            input_bytes=self._input,
            text_bytes=self._text,
            shard_bytes=self._shards,
            tokens=self._tokens,
            start_s=tasks_at - self._began,
            tasks_s=last_at - tasks_at,
            finish_s=time.monotonic() - last_at,
            unit_s=self._unit_s,
            unit_cpu_s=self._unit_cpu_s,
            steady_mb_per_s=self._steady_mb_per_s(),
            peak_rss=self._peak,
            audited=self._audited,
            retries=self._retries,
        )

    def _steady_mb_per_s(self) -> float | None:
        cores = max(1, round(self._cores))
        ended = np.array(self._ended)
        began, task = np.unique(np.array(self._task_began), return_inverse=True)
        if len(began) <= cores:
            return None
        # A worker's first unit takes seconds more: it starts, and loads the tokenizer.
        first = np.full(len(began), np.inf)
        np.minimum.at(first, task, ended)
        begin = first[:cores].max()
        between = (begin < ended) & (ended <= began[-1])
        if between.sum() < 3 * cores:
            return None
        text = np.array(self._text_bytes)[between].sum()
        return float(text / 1e6 / (ended[between].max() - begin))
