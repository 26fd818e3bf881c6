"""Prometheus metrics of a loader and a monitor while they run; nothing is served unless asked for.

A loader's waits in next() are an upper bound of starvation: one while the device still has work is
none. A monitor tells the two apart, roughly while it runs and exactly in its report.

with monitor, serve(loader=loader, monitor=monitor, port=9405):
    for batch in monitor: ...

`cluster/dashboards/starvation.json` is a Grafana dashboard of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from benchmarks.starvation.explain.causes import ASSEMBLE, FETCH, INPUT, INPUT_CAUSES, QUEUE
from benchmarks.starvation.loop.running import SoFar

LOOPBACK = "127.0.0.1"

# Names of `loaders.DataLoader.stats()` that only grow, and what they count.
COUNTED = {
    "batches": "batches that were taken",
    "tokens": "token positions in them",
    "wait_seconds": "seconds that next() was blocked",
    "bytes_read": "bytes of answers that were used",
    "requests": "answers of the store that were used",
    "retries": "reads sent again after a failure",
    "timeouts": "reads without an answer within their deadline",
    "throttled": "reads that the store asked to send later (503)",
    "hedges": "second reads beside one that was late",
    "hedges_won": "second reads that came first",
    "corrupt_rereads": "parts read again because the store's bytes were wrong",
    "cache_hits": "reads answered by the disk cache",
    "cache_bytes_read": "bytes from the disk cache",
    "cache_bytes_written": "bytes into the disk cache",
    "cache_damaged": "parts of the disk cache that were wrong",
    "cache_failures": "failures of the cache's disk",
}


class Loader(Protocol):
    """`loaders.DataLoader`, over any dataset."""

    def stats(self) -> dict[str, Any]:
        """Counters by name."""


class Monitor(Protocol):
    """`StarvationMonitor`, while its block runs."""

    overhead_ns: int

    def so_far(self) -> SoFar:
        """The window up to now; called from another thread."""


class Reading(Collector):
    """Asks loader and monitor when it is scraped; between scrapes it costs nothing."""

    def __init__(self, loader: Loader | None, monitor: Monitor | None = None) -> None:
        self._loader, self._monitor = loader, monitor
        self._waits = WaitsByCause()

    def collect(self) -> Iterator[Metric]:
        if self._loader is not None:
            # The timeline first: what it knows is never more than the total read after it.
            timeline = getattr(self._loader, "timeline", None)
            if callable(timeline):
                self._waits.add(timeline())
            stats = self._loader.stats()
            yield from _of_loader(stats)
            yield self._waits.metric(stats["wait_seconds"])
        if self._monitor is not None:
            yield from _of_monitor(self._monitor)


class WaitsByCause:
    """The loader's waits so far, split by what the batch that was waited for was going through.

    A timeline holds its last 4,096 steps: what passed unseen between two scrapes is "input".
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._next_step = 0
        self._nanoseconds = dict.fromkeys((FETCH, ASSEMBLE, QUEUE), 0)

    def add(self, timeline: np.ndarray) -> None:
        """Count the rows of `loaders.stats.TIMELINE` that were not counted before."""
        with self._lock:
            rows = timeline[timeline["step"] >= self._next_step]
            if not len(rows):
                return
            self._next_step = int(rows["step"].max()) + 1
            begin, end = rows["delivered"] - rows["waited"], rows["delivered"]
            stations = [rows["asked"], rows["arrived"], rows["assembled"], end]
            for cause, since, until in zip(self._nanoseconds, stations, stations[1:], strict=False):
                inside = np.minimum(until, end) - np.maximum(since, begin)
                self._nanoseconds[cause] += int(np.maximum(0, inside).sum())

    def metric(self, total_s: float) -> Metric:
        """Seconds by cause; they sum to `total_s`."""
        causes = CounterMetricFamily(
            "stoker_loader_wait_cause_seconds",
            "seconds that next() was blocked, by cause; they sum to all of them",
            labels=["cause"],
        )
        with self._lock:
            known = {cause: ns / 1e9 for cause, ns in self._nanoseconds.items()}
        for cause, seconds in known.items():
            causes.add_metric([cause], seconds)
        causes.add_metric([INPUT], max(0.0, total_s - sum(known.values())))
        return causes


def _of_loader(stats: Mapping[str, Any]) -> Iterator[Metric]:
    for name, meaning in COUNTED.items():
        if name in stats:
            yield CounterMetricFamily(f"stoker_loader_{name}", meaning, value=stats[name])
    first = stats.get("first_batch_seconds")
    if first is not None:
        yield GaugeMetricFamily(
            "stoker_loader_first_batch_seconds", "seconds to the first batch", value=first
        )


def _of_monitor(monitor: Monitor) -> Iterator[Metric]:
    window = monitor.so_far()
    for name, meaning, value in (
        ("steps", "steps that are over", window.steps),
        ("window_seconds", "seconds that they took", window.window_ns / 1e9),
        ("overhead_seconds", "seconds that watching took", monitor.overhead_ns / 1e9),
    ):
        yield CounterMetricFamily(f"stoker_starvation_{name}", meaning, value=value)
    causes = CounterMetricFamily(
        "stoker_starvation_seconds",
        "seconds of the window by cause; they sum to the window",
        labels=["cause"],
    )
    for cause, nanoseconds in window.causes.items():
        causes.add_metric([cause], nanoseconds / 1e9)
    yield causes
    stalled = sum(window.causes.get(cause, 0) for cause in INPUT_CAUSES)
    yield GaugeMetricFamily(
        "stoker_starvation_stall_ratio",
        "share of the window that the device waited for input, 0 to 1",
        value=stalled / max(1, window.window_ns),
    )


@contextmanager
def serve(
    *,
    loader: Loader | None = None,
    monitor: Monitor | None = None,
    port: int = 0,
    address: str = LOOPBACK,
) -> Iterator[str]:
    """Serve metrics until the block is left; gives the address to scrape.

    `port` 0 takes a free one. Whoever reaches `address` can read the metrics, which name no data;
    it is this machine alone unless you say otherwise.

    Raises:
        OSError: the port is taken.
        ValueError: neither loader nor monitor.
    """
    if loader is None and monitor is None:
        raise ValueError("nothing to serve metrics of: give a loader, a monitor, or both")
    with serve_collector(Reading(loader, monitor), port, address) as where:
        yield where


@contextmanager
def serve_collector(collector: Collector, port: int, address: str = LOOPBACK) -> Iterator[str]:
    """Serve what `collector` tells; see `serve`."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, address, registry)
    try:
        yield f"http://{address}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
