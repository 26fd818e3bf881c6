"""The report is one honest page: all figures in it, no network, and no one else's code."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.starvation.page import gap_chart, render, time_chart
from benchmarks.starvation.report import console_table, percent
from tests.benchmarks.support import figures, report

HOSTILE = "<script>alert('x')</script>&\"</script><img src=x onerror=alert(1)>"


def charts(page: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL
    )
    assert found
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def test_the_verdict_comes_first():
    given = report()
    assert given.verdict == (
        "emulated(H100 124M seq 1024): Stoker starved 0.02 %, inline tokenization 41 %"
    )
    page = render(given)
    body = re.sub(r"<[^>]+>", " ", page.partition("<main>")[2])
    words = " ".join(body.split())
    assert words.startswith(
        "Stoker emulated(H100 124M seq 1024) Stoker starved 0.02 %, inline tokenization 41 %"
    )


def test_everything_from_outside_is_escaped():
    base = report()
    hostile = replace(
        base,
        accelerator=HOSTILE,
        left_out={HOSTILE: HOSTILE},
        device={HOSTILE: HOSTILE},
        data={"dataset": HOSTILE},
        setup={HOSTILE: HOSTILE},
        environment={"cpu": HOSTILE},
        job={HOSTILE: HOSTILE},
        results=tuple(replace(r, title=HOSTILE, note=HOSTILE) for r in base.results),
    )
    page = render(hostile)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert" in page
    # Plotly reads some HTML in labels, so they are escaped once more inside the JSON.
    for trace in charts(page)["gaps"]["data"]:
        assert trace["name"].startswith("&lt;script&gt;")


def test_the_page_needs_no_network_and_holds_plotly_once():
    page = render(report())
    plotly = re.search(r"<script>(/\*.*?)</script>", page, re.DOTALL)
    assert plotly
    own = page.replace(plotly[1], "")
    assert len(page) - len(own) > 1_000_000
    assert "http" not in own.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in own
    assert not re.search(r"<(link|img|iframe|object)\b|@import|url\(", own)


def test_the_page_reads_on_a_phone_and_in_the_dark():
    page = render(report())
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page


def test_the_bars_sum_to_the_whole_window_and_no_gap_is_thinned_away():
    given = report()
    bars = time_chart(given)["data"]
    for number in range(3):
        assert sum(bar["x"][number] for bar in bars) == pytest.approx(100, abs=0.05)
    gaps = tuple(99.0 if at == 6001 else 0.0 for at in range(9001))
    long = replace(given.results[1], figures=figures(0.1, gaps))
    line = gap_chart(replace(given, results=(long,)))["data"][0]
    assert len(line["x"]) == len(line["y"]) < 2500
    worst = line["y"].index(99)
    assert line["x"][worst] == pytest.approx(600.1)


def test_an_invalid_run_says_so_everywhere():
    base = report()
    bad = replace(base.results[1].figures, overshoot_share=0.02)
    invalid = replace(base, results=(base.results[0], replace(base.results[1], figures=bad)))
    assert "invalid" in invalid.verdict
    assert "Not to be trusted" in render(invalid)
    assert json.loads(invalid.to_json())["valid"] is False
    assert "Not to be trusted" not in render(base)


def test_the_json_has_a_version_the_verdict_and_every_figure(tmp_path):
    given = report()
    unknown = replace(given.results[0].figures, au=float("nan"))
    given = replace(given, results=(replace(given.results[0], figures=unknown), *given.results[1:]))
    data, page = given.write(tmp_path / "new" / "folder")
    document = json.loads(data.read_text())
    assert document["version"] == 2
    assert document["verdict"] == given.verdict
    assert document["results"][0]["figures"]["au"] is None
    assert document["results"][1]["headroom"] == pytest.approx(45e6 / 667e3)
    assert document["results"][0]["headroom"] is None
    assert document["environment"]["cpu"] == "AMD EPYC"
    assert page.read_text().startswith("<!doctype html>")


def test_the_console_table_has_a_column_a_contender_and_says_who_is_missing():
    table = console_table(replace(report(), left_out={"inline tokenization": "no text was given"}))
    assert re.search(r"starved +0 % +0.02 % +41 %", table)
    assert table.endswith("inline tokenization left out: no text was given")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0 %"), (0.0002, "0.02 %"), (0.0123, "1.2 %"), (0.41, "41 %"), (0.9999, "100 %")],
)
def test_percentages_keep_two_digits_where_it_matters(rate, text):
    assert percent(rate) == text
