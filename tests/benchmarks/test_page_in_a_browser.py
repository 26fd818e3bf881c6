"""The page as a reader sees it: in Chromium, from disk, light and dark, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.starvation.page import render
from tests.benchmarks.browser import DESKTOP, PHONE, Browser, browse
from tests.benchmarks.support import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browse() as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(report()), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_draws_every_chart_without_a_complaint_or_a_request(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return [...document.querySelectorAll('.chart')].length")
    assert browser.run(
        "return [...document.querySelectorAll('.chart')].filter(e => !e.querySelector('svg'))"
        ".map(e => e.id)"
    ) == []
