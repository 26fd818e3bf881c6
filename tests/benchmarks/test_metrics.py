"""Metrics of a running loader and monitor, as Prometheus scrapes them and Grafana asks for them."""

from __future__ import annotations

import json
import re
import socket
from itertools import islice, product
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch.utils.data import TensorDataset

from benchmarks.starvation.metrics import COUNTED, WaitsByCause, serve
from benchmarks.starvation.monitor import StarvationMonitor
from loaders import DataLoader
from loaders.stats import TIMELINE
from shards.errors import StokerError
from tests.loaders.support import token_dataset


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
def loader(tmp_path_factory: pytest.TempPathFactory) -> DataLoader:
    dataset = token_dataset(str(tmp_path_factory.mktemp("tokens")), 50_000, seq_len=128)
    loader = DataLoader(dataset, 8, shuffle=True)
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


def test_waits_by_cause_sum_to_all_waits_and_grow_only_by_what_is_new(loader):
    with serve(loader=loader) as address:
        for _ in range(3):
            list(islice(loader, 4))
            seen = scrape(address)
            parts = [value for name, value in seen.items() if "wait_cause" in name]
            assert sum(parts) == pytest.approx(seen["stoker_loader_wait_seconds_total"])
            again = scrape(address)
            assert again == seen


def test_a_wait_is_split_where_its_batch_changed_hands_and_counted_once():
    waits = WaitsByCause()
    # Asked for at 0, there at 40, assembled at 70, taken at 90; next() was blocked from 30 on.
    rows = np.array([(0, 0, 40, 70, 80, 90, 60)], TIMELINE)
    for _ in range(2):
        waits.add(rows)
    said = {sample.labels["cause"]: sample.value for sample in waits.metric(1e-7).samples}
    assert said == pytest.approx({"fetch": 10e-9, "assemble": 30e-9, "queue": 20e-9, "input": 4e-8})


def test_a_monitor_tells_its_window_by_cause_and_they_sum_to_it(loader):
    with StarvationMonitor(loader, name="mine") as monitor, serve(monitor=monitor) as address:
        for _ in islice(monitor, 6):
            pass
        seen, window = scrape(address), monitor.so_far()
        assert seen["stoker_starvation_steps_total"] == window.steps > 3
        whole = seen["stoker_starvation_window_seconds_total"]
        assert whole == window.window_ns / 1e9 > 0
        parts = [v for name, v in seen.items() if name.startswith("stoker_starvation_seconds_")]
        assert sum(parts) == pytest.approx(whole)
        stalled = seen["stoker_starvation_seconds_total{input}"]
        assert seen["stoker_starvation_stall_ratio"] == pytest.approx(stalled / whole)
        assert seen["stoker_starvation_overhead_seconds_total"] == monitor.overhead_ns / 1e9


def test_a_monitor_that_is_served_but_not_entered_is_not_looped_over(loader):
    monitor = StarvationMonitor(loader)
    with serve(monitor=monitor), pytest.raises(StokerError, match="write `with monitor:`"):
        list(monitor)


def test_every_metric_that_the_dashboard_asks_for_is_scraped(loader, repository):
    dashboard = json.loads((repository / "cluster/dashboards/starvation.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in dashboard["templating"]["list"]
                if one["type"] == "query"]  # fmt: skip
    asked = {name for query in queries for name in re.findall(r"\bstoker_\w+", query)}
    with StarvationMonitor(loader) as monitor, serve(loader=loader, monitor=monitor) as address:
        list(islice(monitor, 4))
        seen = {name.partition("{")[0] for name in scrape(address)}
    assert len(asked) > 10
    assert asked - seen == set()


def test_the_dashboards_panels_fit_its_24_columns_and_none_lies_on_another(repository):
    dashboard = json.loads((repository / "cluster/dashboards/starvation.json").read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        for cell in cells:
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
        assert panel["datasource"]["uid"] == "${source}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


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
    plain = DataLoader(TensorDataset(torch.arange(3)))
    list(plain)
    with serve(loader=plain) as address:
        seen = scrape(address)
    assert seen["stoker_loader_batches_total"] == 3
    assert "stoker_loader_bytes_read_total" not in seen


def test_nothing_to_serve_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="nothing to serve"), serve():
        pass
