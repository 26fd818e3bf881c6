"""Metrics of a running loader and monitor, as Prometheus scrapes them and Grafana asks for them."""

from __future__ import annotations

import json
import re
import socket
from itertools import islice
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.starvation.causes import CAUSES
from benchmarks.starvation.metrics import COUNTED, SoFar, serve
from loaders import DataLoader, TokenDataset

NS = 1_000_000_000


class Watching:
    """A monitor whose window is known: a second of each cause."""

    steps = 7

    def so_far(self) -> SoFar:
        return SoFar(self.steps, len(CAUSES) * NS, dict.fromkeys(CAUSES, NS))


def scrape(address: str) -> dict[str, float]:
    """Every sample by its name, and by name{cause} where it has one."""
    with urlopen(address, timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        sample.name + (f"{{{sample.labels['cause']}}}" if sample.labels else ""): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def loader(made) -> DataLoader:
    loader = DataLoader(TokenDataset(made.tokens, 128), 8, shuffle=True)
    list(islice(loader, 5))
    return loader


def test_a_scrape_says_what_the_loader_counted_and_the_next_one_what_it_counts_now(loader):
    with serve(loader=loader) as address:
        seen, stats = scrape(address), loader.stats()
        for name in COUNTED:
            assert seen[f"stoker_loader_{name}_total"] == stats[name], name
        assert seen["stoker_loader_first_batch_seconds"] == stats["first_batch_seconds"]
        list(islice(loader, 3))
        later = scrape(address)["stoker_loader_batches_total"]
    assert later == seen["stoker_loader_batches_total"] + 3


def test_causes_of_the_monitor_sum_to_its_window():
    with serve(monitor=Watching()) as address:
        seen = scrape(address)
    parts = [seen[f"stoker_starvation_seconds_total{{{cause}}}"] for cause in CAUSES]
    assert sum(parts) == seen["stoker_starvation_window_seconds_total"] == len(CAUSES)
    assert seen["stoker_starvation_stall_ratio"] == pytest.approx(6 / len(CAUSES))
    assert seen["stoker_starvation_steps_total"] == 7


def test_every_metric_that_the_dashboard_asks_for_is_scraped(loader, repository):
    dashboard = json.loads((repository / "cluster/dashboards/starvation.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in dashboard["templating"]["list"]
                if one["type"] == "query"]  # fmt: skip
    asked = {name for query in queries for name in re.findall(r"\bstoker_\w+", query)}
    with serve(loader=loader, monitor=Watching()) as address:
        seen = {name.partition("{")[0] for name in scrape(address)}
    assert len(asked) > 10
    assert asked - seen == set()
    causes = {cause for query in queries for found in re.findall(r'cause=~"([^"]+)"', query)
              for cause in found.split("|")}  # fmt: skip
    assert causes < set(CAUSES)


def test_only_this_machine_can_scrape_and_nobody_once_it_is_over(loader):
    with serve(loader=loader) as address:
        assert address.startswith("http://127.0.0.1:")
        port = int(address.split(":")[2].partition("/")[0])
        with socket.socket() as outside:
            # Linux answers on all of 127/8 where a server listens on every interface.
            assert outside.connect_ex(("127.0.0.2", port)) != 0
    with pytest.raises(URLError):
        scrape(address)


def test_a_foreign_loader_has_the_metrics_it_knows():
    plain = DataLoader([1, 2, 3])
    list(plain)
    with serve(loader=plain) as address:
        seen = scrape(address)
    assert seen["stoker_loader_batches_total"] == 3
    assert "stoker_loader_bytes_read_total" not in seen


def test_nothing_to_serve_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="nothing to serve"), serve():
        pass
