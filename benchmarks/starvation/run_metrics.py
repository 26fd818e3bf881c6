"""Prometheus metrics of the command's own run: how far it is, who waited, what was found so far.

python -m benchmarks.starvation --data tokens/v1 --metrics-port 9405
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.loop.attempt import Feeds
from benchmarks.starvation.loop.progress import Progress
from benchmarks.starvation.metrics import Reading, serve_collector
from shards.errors import StokerError

PREFIX = "stoker_benchmark"


class RunMetrics(Collector):
    """What a run is told about itself; it is asked from the thread that answers a scrape.

    The metrics of the loader that runs, where it has `loaders.DataLoader`'s, are the same as
    `metrics.serve` has: a new seed or contender begins them at 0 again.
    """

    def __init__(self) -> None:
        self._begun: dict[str, tuple[Feeds, Progress]] = {}
        self._results: dict[str, Result] = {}
        self._reading: tuple[object, Reading] | None = None

    def began(self, contender: Feeds, progress: Progress) -> None:
        """From here on `contender` is measured."""
        self._begun = {**self._begun, contender.name: (contender, progress)}

    def measured(self, result: Result) -> None:
        """A contender is done."""
        self._results = {**self._results, result.name: result}

    def collect(self) -> Iterator[Metric]:
        """All of it, now."""
        yield from self._progress()
        yield self._causes()
        yield from self._loader()

    def _progress(self) -> Iterator[Metric]:
        begun = self._begun
        for name, meaning, kind, value in (
            ("steps", "steps done, warm-up included", CounterMetricFamily, lambda p: p.steps),
            ("expected_steps", "steps it will take", GaugeMetricFamily, lambda p: p.expected),
            ("seconds", "since each seed's first batch", CounterMetricFamily, lambda p: p.seconds),
            (
                "wait_seconds",
                "in next() of them: the device starved at most so long",
                CounterMetricFamily,
                lambda p: p.waited_seconds,
            ),
        ):
            metric = kind(f"{PREFIX}_{name}", meaning, labels=["contender"])
            for contender, (_, progress) in begun.items():
                metric.add_metric([contender], value(progress))
            yield metric

    def _causes(self) -> Metric:
        causes = GaugeMetricFamily(
            f"{PREFIX}_cause_seconds",
            "of contenders that are done: seconds of all windows by cause, as in the report",
            labels=["contender", "cause"],
        )
        for contender, result in self._results.items():
            for cause, nanoseconds in result.causes.items():
                causes.add_metric([contender, cause], nanoseconds / 1e9)
        return causes

    def _loader(self) -> Iterator[Metric]:
        contender = next((each for each, _ in reversed(self._begun.values())), None)
        loader = getattr(contender, "loader", None)
        if loader is None:
            return
        if self._reading is None or self._reading[0] is not loader:
            self._reading = loader, Reading(loader)
        yield from self._reading[1].collect()


@contextmanager
def served(metrics: RunMetrics, port: int | None) -> Iterator[None]:
    """Serve `metrics` to this machine until the block is left; not at all without a port.

    Raises:
        StokerError: the port is taken.
    """
    if port is None:
        yield
        return
    with ExitStack() as stack:
        try:
            address = stack.enter_context(serve_collector(metrics, port))
        except OSError as error:
            why = error.strerror
            raise StokerError(f"--metrics-port {port}: {why}: choose another port") from error
        print(f"metrics of this run: {address}", file=sys.stderr)
        yield
