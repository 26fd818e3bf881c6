"""What the terminal says beside its table of figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.starvation import command
from benchmarks.starvation.explain.result import WorkersPoint
from benchmarks.starvation.options import Options
from benchmarks.starvation.reports.markdown import markdown
from benchmarks.starvation.reports.page import render
from benchmarks.starvation.reports.report import Report
from benchmarks.starvation.reports.sentences import TRY_MORE, at_edge, beside_the_table
from tests.benchmarks.reports import example_report
from tests.benchmarks.support import report


def swept(*headrooms: float) -> Report:
    """The example whose last contender was tried with 1, 2, ... workers."""
    base = example_report()
    points = tuple(WorkersPoint(n, 1e5 * x, x) for n, x in enumerate(headrooms, 1))
    return replace(base, results=(*base.results[:2], replace(base.results[2], workers=points)))


def test_the_terminal_says_whether_the_ladder_agrees_and_where_the_knee_is(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(command, "run", lambda _: example_report())
    command.show(Options(data="", output=tmp_path))
    said = capsys.readouterr().out
    assert "\nladder and attribution agree: 0.8 points apart, 2 are allowed\n" in said
    assert "\ninline tokenization: the knee is at 2 workers, 0.58 times the demand\n" in said


def test_a_ladder_that_does_not_agree_is_not_to_be_trusted():
    base = example_report()
    assert base.ladder is not None
    doubtful = replace(base, ladder=replace(base.ladder, difference=0.031))
    assert beside_the_table(doubtful)[0] == (
        "ladder and attribution do not agree, trust neither: 3.1 points apart, 2 are allowed"
    )


def test_without_a_ladder_and_a_sweep_nothing_is_said():
    assert beside_the_table(report()) == ()


@pytest.mark.parametrize(
    ("headrooms", "edge"), [((1, 2, 4), True), ((1, 4, 4.1), False), ((4, 3), False), ((1,), True)]
)
def test_a_knee_at_the_largest_number_asks_for_more_workers_everywhere(headrooms, edge):
    given = swept(*headrooms)
    assert at_edge(given.results[2].workers) is edge
    assert beside_the_table(given)[-1].endswith(f"demand; {TRY_MORE}") is edge
    assert (f"; {TRY_MORE}." in render(given)) is edge
    assert ("The best is at the edge: try more workers." in markdown(given)) is edge


def test_nobody_can_ask_for_more_workers_where_none_were_varied():
    assert not at_edge(())
