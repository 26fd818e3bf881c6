"""How many malformed rows a job may set apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.budget import job_exceeds, parse_budget, show_budget, unit_exceeds


@pytest.mark.parametrize(
    ("text", "budget"),
    [("0", 0), ("100", 100), ("0.1%", 0.001), ("0.001", 0.001), ("5 %", 0.05), ("0.0", 0.0)],
)
def test_a_budget_is_a_count_or_a_share(text: str, budget: float) -> None:
    found = parse_budget(text)
    assert found == pytest.approx(budget)
    assert type(found) is type(budget)


@pytest.mark.parametrize("text", ["", "-1", "x", "1.0", "100%", "1e3%", "nan", "%", "1_0", "-0.1"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a number of rows nor a share"):
        parse_budget(text)


@given(st.one_of(st.integers(0, 10**9), st.integers(0, 99_999).map(lambda n: n / 100_000)))
def test_what_is_shown_is_read_back(budget: float) -> None:
    assert parse_budget(show_budget(budget)) == pytest.approx(budget)


def test_a_count_holds_at_every_moment_and_for_every_unit() -> None:
    assert not unit_exceeds(2, 2, 2)
    assert unit_exceeds(2, 3, 10**9)
    assert not job_exceeds(2, 2, 2, finished=True)
    assert job_exceeds(2, 3, 10**9, finished=False)


def test_a_share_is_judged_at_the_end_over_all_rows() -> None:
    assert not job_exceeds(0.01, 50, 100, finished=False)
    assert job_exceeds(0.01, 50, 100, finished=True)
    assert not job_exceeds(0.01, 1, 100, finished=True)
    assert job_exceeds(0.0, 1, 10**9, finished=True)


def test_a_unit_that_is_mostly_bad_ends_the_job_at_once() -> None:
    assert not unit_exceeds(0.001, 9_000, 9_000), "a small unit may be an accident"
    assert not unit_exceeds(0.001, 20_000, 100_000), "the others may be clean"
    assert unit_exceeds(0.001, 20_000, 30_000)
    assert not unit_exceeds(0.9, 20_000, 30_000), "it was asked for"
