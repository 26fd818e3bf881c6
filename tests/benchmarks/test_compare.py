"""Two reports side by side: better, worse or noise, and whether they may be compared at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.starvation.explain.statistics import Estimate
from benchmarks.starvation.reports.compare import (
    MORE_IS_BETTER,
    compare,
    in_lines,
    judge,
    read_report,
)
from shards.errors import StokerError
from tests.benchmarks.reports import changed_report, example_report

values = st.floats(-1e9, 1e9)
estimates = st.tuples(values, values, values).map(
    lambda three: Estimate(sorted(three)[1], min(three), max(three))
)


def document() -> dict[str, object]:
    parsed: dict[str, object] = json.loads(example_report().to_json())
    return parsed


@given(st.sampled_from([*MORE_IS_BETTER, "unknown"]), estimates, estimates)
def test_noise_is_an_overlap_and_the_way_back_is_the_opposite(figure, old, new):
    there, back = judge(figure, old, new), judge(figure, new, old)
    opposite = {"better": "worse", "worse": "better", "noise": "noise", "changed": "changed"}
    assert back == opposite[there]
    assert (there == "noise") == (max(old.low, new.low) <= min(old.high, new.high))
    assert judge(figure, old, old) == "noise"


def test_a_report_beside_itself_is_noise_and_nothing_differs():
    found = compare(document(), example_report())
    assert len(found.changes) == 21
    assert {change.judgement for change in found.changes} == {"noise"}
    assert (found.conditions, found.gone, found.added, found.doubts) == ({}, (), (), ())
    assert found.verdict == "compared with the older report: 21 noise"


def test_less_starvation_and_more_tokens_are_better_and_longer_steps_are_worse():
    now = changed_report()
    found = compare(document(), replace(now, results=now.results[1:2]))
    said = {change.figure: change.judgement for change in found.changes}
    assert said["stall_rate"] == said["tokens_per_s"] == "better"
    assert said["step_ms"] == "worse"
    assert said["au"] == "noise"
    assert found.gone == ("batch already there", "inline tokenization")
    assert found.verdict.endswith("2 better, 1 worse, 4 noise")


def test_on_the_terminal_doubts_come_before_figures_and_noise_is_not_told():
    said = in_lines(compare(document(), changed_report()))
    order = [
        "2 better, 1 worse, 18 noise",
        "careful: the newer report is unstable",
        "not the same: environment cpu: AMD EPYC -> Graviton",
        "better: Stoker stall_rate",
    ]
    assert sorted(order, key=said.index) == order
    assert "noise:" not in said


def test_other_conditions_and_doubtful_reports_are_named():
    base = example_report()
    elsewhere = replace(
        base,
        environment={"cpu": "Graviton", "cores": "2", "git": "another", "date": "today"},
        results=(replace(base.results[0], name="mine", title="mine", spread=0.3),),
    )
    found = compare(document(), elsewhere)
    assert found.conditions == {"environment cpu": ("AMD EPYC", "Graviton")}
    assert found.added == ("mine",)
    assert found.doubts == ("the newer report is unstable",)


def test_what_was_written_is_read_again(tmp_path):
    written = example_report().write(tmp_path)[0]
    assert read_report(written) == document()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no older report"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "version None"),
        ('{"version": 1}', "version 1, not 2: measure it again"),
        ('{"version": 2}', "no report"),
    ],
)
def test_what_is_no_report_is_an_error_that_says_so(content, message, tmp_path):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StokerError, match=message) as raised:
        read_report(path)
    assert str(path) in str(raised.value)


def test_a_damaged_report_is_refused_with_the_place(tmp_path):
    broken = document()
    broken["results"][1]["figures"]["stall_rate"] = "much"  # type: ignore[index]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(StokerError, match=r"results\[1\]\.figures\.stall_rate: 'much'"):
        read_report(path)
