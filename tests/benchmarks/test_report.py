"""The report is a document of a described form, and its verdict is what its figures say."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jsonschema
import pytest

from benchmarks.starvation.explain.causes import CALLED, CAUSES
from benchmarks.starvation.explain.statistics import Estimate
from benchmarks.starvation.reports import schema
from benchmarks.starvation.reports.report import (
    CONSOLE_ROWS,
    SCHEMA,
    console_table,
    interval,
    number,
    rate,
)
from tests.benchmarks.reports import example_deck, example_report
from tests.benchmarks.support import figures, report


def validate(document: Any) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)


def test_the_committed_schema_is_the_one_of_the_code():
    assert SCHEMA.read_text() == schema.text(), "run python -m benchmarks.starvation.reports.schema"


@pytest.mark.parametrize("made", [example_report(), report()])
def test_a_report_is_valid_by_its_schema(made):
    validate(json.loads(made.to_json()))


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("results", 0, "causes", "tea"), 3),
        (("results", 0, "figures", "stall_rate"), None),
        (("results", 0, "unknown"), 1),
        (("results", 0, "advice"), [{"cause": "fetch"}]),
        (("version",), 1),
    ],
)
def test_what_is_wrong_in_a_document_is_found(where, wrong):
    document: Any = json.loads(example_report().to_json())
    at = document
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def empty(value: object, path: str) -> list[str]:
    if is_dataclass(value):
        return [
            found
            for field in fields(value)
            for found in empty(getattr(value, field.name), f"{path}.{field.name}")
        ]
    if isinstance(value, tuple):
        return [found for n, item in enumerate(value) for found in empty(item, f"{path}[{n}]")]
    return [path] if value is None or value == {} else []


def test_the_example_fills_every_field():
    given = example_report()
    more = replace(given, deck=example_deck())
    assert empty(replace(more, results=given.results[2:], ladder=None, controls=()), "") == [
        ".results[0].workers[3].stall_rate",
        ".ladder",
    ]
    assert given.results[2].workers
    assert given.results[2].advice
    assert set(given.results[2].causes) == set(CAUSES)


def test_causes_of_every_run_sum_to_its_window():
    for result in example_report().results:
        assert sum(result.causes.values()) == result.window_ns
        for run in result.runs:
            assert sum(run.causes.values()) == run.window_ns


def test_the_verdict_names_share_interval_cause_and_cost():
    assert example_report().verdict == (
        "emulated(H100 124M seq 1024, time x 0.04): Stoker starved 0.9 % [0.9, 0.9], mainly I/O"
        " latency, costs $0.495/h on p5.48xlarge; inline tokenization 24.6 % [23.9, 25.3], mainly"
        " heavy preprocessing, costs $13.5/h on p5.48xlarge"
    )


def test_of_many_contenders_a_verdict_names_the_first_and_the_worst_and_how_far_the_others_are():
    given = example_report()
    between = [
        replace(given.results[1], name=f"s3-{share}", figures=figures(share, (1.0, 2.0) * 100))
        for share in (0.02, 0.1)
    ]
    several = replace(given, results=(*given.results[:2], *between, given.results[2]))
    first, worst, others = several.findings
    assert first.startswith("Stoker starved 0.9 %")
    assert worst.startswith("inline tokenization 24.6 %")
    assert others == "2 others 2.0 % to 10 %"


def test_a_verdict_says_when_seeds_differ():
    given = example_report()
    assert "unstable" not in given.verdict
    results = (*given.results[:2], replace(given.results[2], spread=0.2))
    assert "unstable: the seeds differ by more than 5 %" in replace(given, results=results).verdict


@pytest.mark.parametrize(
    ("asked", "steps", "doubt"),
    [
        (200, 20, "only 20 of 200 steps were measured (--seconds)"),
        (200, 9, "only 9 of 200 steps were measured (--seconds), too few for intervals"),
        (15, 15, "only 15 steps were measured"),
        (None, 2, "only 2 steps were measured, too few for intervals"),
        (None, 1, "only 1 step was measured, too few for intervals"),
    ],
)
def test_a_report_of_few_steps_says_so_in_its_verdict(asked, steps, doubt):
    given = example_report()
    last = given.results[2]
    short = replace(last, figures=replace(last.figures, steps=steps))
    said = replace(given, results=(*given.results[:2], short), asked_steps=asked)
    assert said.verdict.endswith(f"({doubt})")
    assert said.short == (short,)


@pytest.mark.parametrize(("asked", "steps"), [(200, 200), (20, 20), (None, 20), (50, 60)])
def test_as_many_steps_as_were_asked_for_are_no_doubt(asked, steps):
    given = example_report()
    enough = tuple(replace(r, figures=replace(r.figures, steps=steps)) for r in given.results)
    said = replace(given, results=enough, asked_steps=asked)
    assert said.few_steps == ""
    assert "measured" not in said.verdict


def test_a_report_from_before_steps_were_told_is_still_valid():
    document = json.loads(example_report().to_json())
    del document["asked_steps"]
    validate(document)


@pytest.mark.parametrize(
    ("tokens_per_s", "said"),
    [
        (0.0, "0 tok/s"),
        (7.54, "7.54 tok/s"),
        (75.2, "75.2 tok/s"),
        (2179.0, "2,180 tok/s"),
        (12_345.0, "12 ktok/s"),
        (666e3, "666 ktok/s"),
        (45e6, "45.00 Mtok/s"),
        (None, "-"),
    ],
)
def test_a_rate_has_a_unit_in_which_it_is_neither_zero_nor_endless(tokens_per_s, said):
    assert rate(tokens_per_s) == said


def test_an_interval_of_a_slow_rate_is_in_tokens_a_second():
    slow = Estimate(75.0, 74.0, 76.25)
    assert interval("tokens_per_s", slow) == "75.0 tok/s [74.0, 76.2]"
    fast = Estimate(75e3, 74e3, 76e3)
    assert interval("tokens_per_s", fast) == "75.0 ktok/s [74.0, 76.0]"


@pytest.mark.parametrize(
    ("value", "said"),
    [(123_963, "124,000"), (999.6, "1,000"), (67.46, "67.5"), (0.5846, "0.585"), (0, "0")],
)
def test_large_numbers_have_no_exponent(value, said):
    assert number(value) == said


def test_nothing_that_people_read_has_an_exponent_where_a_loader_is_very_fast():
    given = example_report()
    fast = replace(given.results[1], unthrottled_tokens_per_s=1e10, cores_to_feed=512.0)
    said = console_table(replace(given, results=(fast,)))
    assert "120,000" in said
    assert "e+" not in said


def test_the_pages_of_documentation_explain_each_row_of_the_terminal(repository):
    page = (repository / "docs/starvation.md").read_text()
    table = page.partition("### On the terminal")[2].partition("\n### ")[0]
    assert [row.split(" | ")[0][2:] for row in table.splitlines() if row.startswith("| ")] == [
        "row",
        *CONSOLE_ROWS,
    ]


def test_every_idle_cause_has_a_name_that_people_use():
    assert set(CALLED) == set(CAUSES) - {"compute"} | {"padding"}
