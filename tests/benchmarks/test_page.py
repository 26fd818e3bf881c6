"""The report is one honest page: all figures in it, no network, and no one else's code."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.starvation.explain.causes import CAUSES
from benchmarks.starvation.explain.result import WorkersPoint, knee
from benchmarks.starvation.reports.charts import gaps, shares
from benchmarks.starvation.reports.charts.timeline import timeline
from benchmarks.starvation.reports.compare import compare
from benchmarks.starvation.reports.page import charts, render
from benchmarks.starvation.reports.report import console_table, percent
from tests.benchmarks.reports import changed_report, example_report
from tests.benchmarks.support import figures, report

HOSTILE = "<script>alert('x')</script>&\"</script><img src=x onerror=alert(1)>"
# What the code itself decides: names of causes and lanes, and numbers.
OURS = {"cause", "kind", "lane", "expected", "causes", "shares", "cannot_see", "family", "called"}


def hostile(value: Any) -> Any:
    """The same report with `HOSTILE` wherever a text may come from outside."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{
                field.name: hostile(getattr(value, field.name))
                for field in fields(value)
                if field.name not in OURS
            },
        )
    if isinstance(value, dict):
        names = {name: name if name in ESTIMATED else f"{HOSTILE}{name}" for name in value}
        return {names[name]: hostile(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(hostile(item) for item in value)
    return HOSTILE if isinstance(value, str) else value


ESTIMATED = set(example_report().results[0].estimates)


def drawn(page: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL
    )
    assert found
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def test_the_verdict_comes_first_with_interval_cause_and_money():
    body = re.sub(r"<[^>]+>", " ", render(example_report()).partition("<main>")[2])
    words = " ".join(body.split())
    assert words.startswith(
        "Stoker emulated(H100 124M seq 1024, time x 0.04) Stoker starved 0.9 % [0.9, 0.9], mainly"
        " I/O latency, costs $0.495/h on p5.48xlarge inline tokenization 24.6 % [23.9, 25.3],"
        " mainly heavy preprocessing, costs $13.5/h on p5.48xlarge"
    )


def test_everything_from_outside_is_escaped():
    page = render(hostile(example_report()))
    assert page.count("&lt;script&gt;alert") > 50
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    # Plotly reads some HTML in labels, so they are escaped once more inside the JSON.
    assert "\\u003cscript" not in page
    for trace in drawn(page)["gaps"][0]["data"]:
        assert trace["name"].startswith("&lt;script&gt;")


def test_the_page_needs_no_network_and_holds_plotly_once():
    page = render(example_report())
    plotly = re.search(r"<script>(/\*.*?)</script>", page, re.DOTALL)
    assert plotly
    own = page.replace(plotly[1], "")
    assert len(page) - len(own) > 1_000_000
    assert "http" not in own.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in own
    assert not re.search(r"<(link|img|iframe|object)\b|@import|url\(", own)


def test_every_picture_of_an_emulated_accelerator_says_so():
    pictures = [one for several in charts(example_report()).values() for one in several if one]
    assert len(pictures) == 12
    for picture in pictures:
        assert picture["layout"]["title"]["text"] == (
            "emulated(H100 124M seq 1024, time x 0.04), uncalibrated"
        )


def test_every_colour_is_a_variable_that_both_themes_define():
    page = render(example_report())
    light, _, dark = page.partition("prefers-color-scheme: dark")
    used = set(re.findall(r'"(--[\w-]+)"', json.dumps(drawn(page))))
    used |= set(re.findall(r"var\((--[\w-]+)\)", page))
    assert len(used) > 25
    for colour in used:
        assert f"{colour}: #" in light, colour
        assert f"{colour}: #" in dark.partition("</style>")[0], colour


def test_the_bars_side_by_side_sum_to_the_whole_window():
    bars = shares.side_by_side(example_report())["data"]
    for number in range(3):
        assert sum(bar["x"][number] for bar in bars) == pytest.approx(100, abs=0.05)


parts = st.lists(st.floats(0, 1), min_size=len(CAUSES), max_size=len(CAUSES)).filter(sum)


@given(parts, st.floats(0.01, 1))
@settings(max_examples=100)
def test_the_waterfall_goes_from_the_window_down_to_what_was_useful(sizes, efficiency):
    whole = sum(sizes)
    split = {cause: size / whole for cause, size in zip(CAUSES, sizes, strict=True)}
    example = example_report().results[0]
    seen = replace(example.figures, shares=split, padding_efficiency=efficiency)
    level = 1.0
    for name, base, size in shares.waterfall_rows(replace(example, figures=seen)):
        # A cause hangs from what was left before it; a sum stands on the ground.
        assert base + size == pytest.approx(level, abs=0.002)
        if name in shares.SUMS:
            assert base == 0
        else:
            level = base
    assert level == pytest.approx(split["compute"] * efficiency, abs=0.002)


def test_without_waits_inside_steps_what_is_left_is_compute():
    rows = shares.waterfall_rows(example_report().results[1])
    assert [name for name, *_ in rows] == [
        *("window", "fetch", "assemble", "queue", "h2d", "compute"),
    ]


def test_advice_about_what_takes_most_comes_first():
    page = render(example_report())
    padding = page.index("Pack documents into rows.")
    assert padding < page.index("Tokenize once, ahead of training")


def test_a_comparison_stands_on_the_page_doubts_first_and_noise_last():
    now = changed_report()
    page = render(now, compare(example_report().document(), now))
    part = page.partition('<h2 id="compared">')[2].partition("<h2")[0]
    words = " ".join(re.sub(r"<[^>]+>", " ", part).split())
    said = [
        "2 better, 1 worse, 18 noise",
        "Careful. The newer report is unstable",
        "environment cpu AMD EPYC Graviton",
        "starved Stoker better 0.90 % [0.87, 0.93] 0.10 % [0.09, 0.11]",
        "a step Stoker worse 100.00 ms [97.00, 103.00] 140.00 ms [139.00, 141.00]",
        "18 figures: no more than noise",
    ]
    assert [each for each in said if each not in words] == []
    assert sorted(said, key=words.index) == said
    assert 'id="compared"' not in render(now)


def test_names_in_a_comparison_are_escaped_too():
    now = hostile(changed_report())
    page = render(now, compare(hostile(example_report()).document(), now))
    assert "environment" in page.partition('<h2 id="compared">')[2]
    assert "<script>alert" not in page


def test_contenders_of_one_name_keep_a_bar_each():
    base = example_report()
    same = replace(base, results=tuple(replace(r, title="my loader") for r in base.results))
    assert shares.side_by_side(same)["data"][0]["y"] == [0, 1, 2]


def test_no_gap_is_thinned_away():
    lengths = tuple(99.0 if at == 6001 else 0.0 for at in range(9001))
    base = example_report()
    long = replace(base.results[1], figures=figures(0.1, lengths))
    picture = gaps.over_time(replace(base, results=(long,)))
    assert picture is not None
    line = picture["data"][0]
    assert len(line["x"]) == len(line["y"]) < 2500
    worst = line["y"].index(99)
    assert line["x"][worst] == pytest.approx(600.1)


def test_pictures_of_one_run_say_which():
    base = example_report()
    page = render(base)
    assert page.count("</i>Stoker: seed 0 of 0-2, the middle one, rank 0</span>") == 2
    assert drawn(page)["timeline"][0]["layout"]["xaxis"]["title"]["text"] == (
        "ms (seed 0 of 0-2, the middle one, rank 0)"
    )
    bare = replace(base, results=tuple(replace(r, timeline=None) for r in base.results))
    assert render(bare).count("</i>Stoker</span>") == 2


def test_where_nobody_stood_idle_the_page_says_so_instead_of_an_empty_grid():
    base = example_report()
    fed = replace(base, results=(replace(base.results[0], figures=figures(0.0, (0.0, 0.0))),))
    page = render(fed)
    assert drawn(page)["gaps"] == drawn(page)["distribution"] == [None]
    assert page.count("No gaps: no loader let the device stand idle.") == 2
    assert None not in (gaps.over_time(base), gaps.distribution(base))


@example([float(length) for length in range(5003)])
@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=5000))
@settings(max_examples=50)
def test_the_curve_of_gaps_counts_those_that_are_longer(lengths):
    xs, ys = gaps.survival(lengths)
    assert len(xs) <= gaps.GAP_POINTS
    assert xs[-1] == pytest.approx(max(*lengths, gaps.SHORTEST_MS), abs=1e-6)
    assert ys[-1] == pytest.approx(0, abs=1e-6)
    for x, y in list(zip(xs, ys, strict=True))[:: max(1, len(xs) // 20)]:
        longer = sum(length > x + 1e-6 for length in lengths)
        at_least = sum(length > x - 1e-6 for length in lengths)
        assert longer - 1e-3 <= y / 100 * len(lengths) <= at_least + 1e-3


def test_the_timeline_has_every_span_on_its_lane():
    given = example_report()
    result = given.results[2]
    assert result.timeline is not None
    picture = timeline(given, result)
    assert picture is not None
    bars = [
        (lane, base, length)
        for trace in picture["data"]
        for lane, base, length in zip(trace["y"], trace["base"], trace["x"], strict=True)
    ]
    assert len(bars) == len(result.timeline.spans)
    busy = sum(length for lane, _, length in bars if lane == 0)
    assert busy == pytest.approx(picture["layout"]["xaxis"]["range"][1])
    assert timeline(given, replace(result, timeline=None)) is None


@pytest.mark.parametrize(
    ("rates", "bend"), [((100, 200, 395, 400), 2), ((100, 90, 80, 70), 0), ((1, 2, 4, 8), 3)]
)
def test_the_knee_is_the_fewest_workers_that_reach_nine_tenths_of_the_best(rates, bend):
    points = [WorkersPoint(at, rate, rate / 1000) for at, rate in enumerate(rates)]
    found = knee(points)
    assert found is not None
    assert found.workers == bend


def test_an_invalid_an_unstable_and_a_doubtful_run_say_so_everywhere():
    base = example_report()
    bad = replace(base.results[1].figures, overshoot_share=0.02)
    assert base.ladder is not None
    doubtful = replace(
        base,
        results=(replace(base.results[0], spread=0.2), replace(base.results[1], figures=bad)),
        ladder=replace(base.ladder, difference=0.031),
    )
    assert "invalid" in doubtful.verdict
    page = render(doubtful)
    for words in ("Not to be trusted", "Unstable.", "Two methods disagree", "A control failed"):
        assert words in page
    assert json.loads(doubtful.to_json())["valid"] is False
    fine = render(replace(base, controls=base.controls[:2]))
    assert 'class="warning"' not in fine


def test_a_page_of_few_steps_says_whose():
    base = example_report()
    few = replace(base.results[2], figures=replace(base.results[2].figures, steps=20))
    words = " ".join(render(replace(base, results=(*base.results[:2], few))).split())
    assert "Only 20 of 200 steps were measured (--seconds): inline tokenization." in words
    assert "Few steps." not in render(base)


def test_advice_of_an_invalid_run_is_to_measure_again_first():
    base = example_report()
    inline = base.results[2]
    disturbed = replace(inline, figures=replace(inline.figures, overshoot_share=0.02))
    first = "First of all, measure again"
    assert first in render(replace(base, results=(*base.results[:2], disturbed)))
    assert first not in render(base)


def test_a_report_with_nothing_optional_is_a_page_too():
    page = render(report())
    assert "<h2>Controls" not in page
    assert "<h2>What to do" not in page
    assert drawn(page)["ladder"] == [None]


def test_the_json_has_a_version_the_verdict_and_every_figure(tmp_path):
    given = report()
    unknown = replace(given.results[0].figures, au=float("nan"))
    given = replace(given, results=(replace(given.results[0], figures=unknown), *given.results[1:]))
    data, page = given.write(tmp_path / "new" / "folder")[:2]
    document = json.loads(data.read_text())
    assert document["version"] == 2
    assert document["verdict"] == given.verdict
    assert document["results"][0]["figures"]["au"] is None
    assert document["results"][1]["headroom"] == pytest.approx(45e6 / 667e3)
    assert document["results"][0]["headroom"] is None
    assert document["environment"]["cpu"] == "AMD EPYC"
    assert page.read_text().startswith("<!doctype html>")


def test_a_name_that_is_no_text_is_written_too(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    written = replace(report(), data={"dataset": name}).write(tmp_path)
    assert [path.name for path in written] == ["report.json", "report.html", "report.md"]
    assert all("caf" in path.read_text(encoding="utf-8") for path in written)


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
