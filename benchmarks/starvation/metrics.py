"""Prometheus metrics of a loader and a monitor while they run; nothing is served unless asked for.

with serve(loader=loader, monitor=monitor, port=9405):
    for batch in monitor: ...

`cluster/dashboards/starvation.json` is a Grafana dashboard of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from benchmarks.starvation.causes import INPUT_CAUSES

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


@dataclass(frozen=True)
class SoFar:
    """A window that is still open: `causes` are nanoseconds of `window_ns`, which they sum to."""

    steps: int
    window_ns: int
    causes: Mapping[str, int]


class Monitor(Protocol):
    """What attributes time while it passes."""

    def so_far(self) -> SoFar:
        """The window up to now; called from another thread."""


class _Reading(Collector):
    """Asks loader and monitor when it is scraped; between scrapes it costs nothing."""

    def __init__(self, loader: Loader | None, monitor: Monitor | None) -> None:
        self.loader, self.monitor = loader, monitor

    def collect(self) -> Iterator[Metric]:
        if self.loader is not None:
            yield from _of_loader(self.loader.stats())
        if self.monitor is not None:
            yield from _of_monitor(self.monitor.so_far())


def _of_loader(stats: Mapping[str, Any]) -> Iterator[Metric]:
    for name, meaning in COUNTED.items():
        if name in stats:
            yield CounterMetricFamily(f"stoker_loader_{name}", meaning, value=stats[name])
    first = stats.get("first_batch_seconds")
    if first is not None:
        yield GaugeMetricFamily(
            "stoker_loader_first_batch_seconds", "seconds to the first batch", value=first
        )


def _of_monitor(window: SoFar) -> Iterator[Metric]:
    yield CounterMetricFamily("stoker_starvation_steps", "steps measured", value=window.steps)
    yield CounterMetricFamily(
        "stoker_starvation_window_seconds", "seconds measured", value=window.window_ns / 1e9
    )
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
    registry = CollectorRegistry()
    registry.register(_Reading(loader, monitor))
    server, thread = start_http_server(port, address, registry)
    try:
        yield f"http://{address}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
