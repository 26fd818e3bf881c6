"""The command's own run, scraped while it goes on: by a loader that is measured in it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import count, islice
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.starvation.command import main
from benchmarks.starvation.contenders import Stoker
from benchmarks.starvation.loop.progress import Progress
from benchmarks.starvation.run_metrics import RunMetrics, served
from tests.loaders.support import token_dataset

Samples = dict[tuple[str, ...], float]
SEEN: list[Samples] = []
PORT = 0
# The batch of an epoch that looks at the metrics: as many steps were handed over before it.
AT = 6


def scrape() -> Samples:
    """Every sample by its name and the values of its labels, in the order of their names."""
    with urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, *dict(sorted(sample.labels.items())).values()): sample.value
        for family in families
        for sample in family.samples
    }


def scraping() -> Iterator[dict[str, torch.Tensor]]:
    """A loader that looks at the metrics of the run that it is part of."""
    ids = torch.ones(8, 128, dtype=torch.int64)
    for number in count():
        if number == AT:
            SEEN.append(scrape())
        yield {"input_ids": ids, "labels": ids}


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free: int = taken.getsockname()[1]
    global PORT
    PORT = free
    SEEN.clear()
    return free


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tokens"))
    token_dataset(folder, 50_000, seq_len=128)
    return folder


def arguments(data: str, output: object, port: int) -> list[str]:
    shape = ["--seq-len", "128", "--batch-size", "8", "--time-scale", "0.2", "--steps", "12"]
    often = ["--warmup", "2", "--seeds", "2", "--seconds", "20"]
    return [
        *("--data", data, "--output", str(output), "--metrics-port", str(port)),
        *(*shape, *often),
    ]


def test_a_running_benchmark_tells_its_steps_its_waits_and_what_it_has_found(
    tokens, tmp_path, port
):
    asked = arguments(tokens, tmp_path, port)
    began = time.perf_counter()
    assert main([*asked, "--loader", f"{__name__}:scraping"]) == 0
    lasted = time.perf_counter() - began
    # Later ones are of the loader alone.
    first, second = SEEN[:2]
    steps = "stoker_benchmark_steps_total"
    # Of the second seed, those of the first are still counted.
    assert first[steps, "own"] == AT
    assert second[steps, "own"] == 14 + AT
    assert second["stoker_benchmark_expected_steps", "own"] == 28
    assert second[steps, "stoker"] == first[steps, "stoker"] == 28
    waited, seconds = (
        second[f"stoker_benchmark_{name}_total", "own"] for name in ("wait_seconds", "seconds")
    )
    assert 0 < waited < seconds < lasted
    assert waited > first["stoker_benchmark_wait_seconds_total", "own"]
    # What is done is known exactly; what runs isn't.
    found = {key[2] for key in second if key[0] == "stoker_benchmark_cause_seconds"}
    assert found == {"resident", "stoker"}
    assert second["stoker_benchmark_cause_seconds", "compute", "stoker"] > 0
    with pytest.raises(URLError):
        scrape()


def test_the_counters_of_stokers_loader_are_there_while_it_runs_and_begin_anew(tokens, port):
    stoker, metrics = Stoker(tokens, 128, 8), RunMetrics()
    taken = "stoker_loader_batches_total"
    with Progress("Stoker", 10) as progress, served(metrics, port):
        metrics.began(stoker, progress)
        assert taken not in {name for name, *_ in scrape()}
        for some in (3, 2):
            list(islice(stoker.open(), some))
            seen = scrape()
            assert seen[taken,] == some
            causes = [value for name, value in seen.items() if "wait_cause" in name[0]]
            assert sum(causes) == pytest.approx(seen["stoker_loader_wait_seconds_total",])


def test_without_a_port_nothing_listens(tokens, tmp_path, port, capsys):
    asked = arguments(tokens, tmp_path, port)
    at = asked.index("--metrics-port")
    del asked[at : at + 2]
    assert main([*asked, "--loader", f"{__name__}:scraping"]) == 0
    assert "Connection refused" in capsys.readouterr().out
    assert not SEEN


def test_a_port_that_is_taken_is_one_line(tokens, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(arguments(tokens, tmp_path / "new", port)) == 1
    assert f"--metrics-port {port}: Address already in use: choose" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
