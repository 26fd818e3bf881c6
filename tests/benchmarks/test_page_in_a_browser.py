"""The page as a reader sees it: in Chromium, from disk, light and dark, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.starvation.reports.compare import compare
from benchmarks.starvation.reports.page import render
from benchmarks.starvation.reports.report import Report
from tests.benchmarks.browser import DESKTOP, PHONE, Browser, browse
from tests.benchmarks.reports import changed_report, example_report
from tests.benchmarks.support import report
from tests.benchmarks.test_page import hostile

pytestmark = pytest.mark.slow

WITHOUT_A_PICTURE = (
    "return [...document.querySelectorAll('.chart')].filter(e => !e.hidden && !e.querySelector"
    "('.trace path')).map(e => e.id)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browse() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page")
    return path


def shown(given: Report, folder: Path, name: str = "report") -> Path:
    page = folder / f"{name}.html"
    if not page.exists():
        page.write_text(render(given), encoding="utf-8")
    return page


def sideways(browser: Browser) -> list[str]:
    """What sticks out to the right of the screen, where nobody scrolls it by itself."""
    found: list[str] = browser.run(
        """const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
        const out = [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, svg")
          && e.getBoundingClientRect().right > innerWidth + 1);
        return [...(wide ? ["the page"] : []), ...out.map(e => e.outerHTML.slice(0, 120))]"""
    )
    return found


def seen(browser: Browser) -> list[float]:
    """The stretch of the timeline that is on the screen, in ms."""
    range_: list[float] = browser.run(
        "return document.getElementById('timeline')._fullLayout.xaxis.range"
    )
    return range_


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_draws_every_chart_without_a_complaint_a_request_or_scrolling(
    browser, folder, width, dark
):
    page = shown(example_report(), folder)
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.querySelectorAll('.chart').length") == 8
    assert browser.run(WITHOUT_A_PICTURE) == []
    assert sideways(browser) == []


def test_a_comparison_fits_a_phone(browser, folder):
    page = folder / "compared.html"
    now = changed_report()
    page.write_text(render(now, compare(example_report().document(), now)), encoding="utf-8")
    browser.open(page, width=PHONE)
    assert browser.complaints() == []
    assert sideways(browser) == []
    judged = "return [...document.querySelectorAll('#compared ~ .scroll .good, .bad')].filter(e"
    judged += " => e.getBoundingClientRect().right < innerWidth).map(e => e.innerText)"
    assert set(browser.run(judged)) >= {"better", "worse"}


def test_hostile_names_run_nothing_and_break_nothing(browser, folder):
    page = shown(hostile(example_report()), folder, "hostile")
    browser.open(page, width=PHONE)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.querySelectorAll('img, iframe, main script').length") == 0
    assert browser.run(WITHOUT_A_PICTURE) == []
    assert "<script>alert('x')</script>" in browser.run("return document.title")
    labels = browser.run(
        "return [...document.querySelectorAll('#shares text')].map(e => e.textContent)"
    )
    assert any(text.startswith("<script>alert") for text in labels)
    assert sideways(browser) == []


def test_pictures_take_the_colours_of_the_theme_also_when_it_changes(browser, folder):
    browser.open(shown(example_report(), folder), dark=False)

    def colours() -> tuple[str, str]:
        paper, bar = browser.run(
            """const bar = document.querySelector("#shares .trace path");
            return [getComputedStyle(document.body).backgroundColor, bar.style.fill]"""
        )
        return paper, bar

    light = colours()
    browser.theme(dark=True)
    dark = browser.until(colours, lambda now: now[1] != light[1])
    assert light == ("rgb(251, 250, 248)", "rgb(47, 125, 109)")
    assert dark == ("rgb(22, 21, 20)", "rgb(63, 160, 140)")


def test_the_timeline_is_zoomed_by_buttons_and_by_dragging(browser, folder):
    browser.open(shown(example_report(), folder))
    whole = seen(browser)
    assert whole == [0, 2000]
    browser.click("closer")
    assert seen(browser) == pytest.approx([600, 1400])
    browser.click("later")
    assert seen(browser) == pytest.approx([1000, 1800])
    browser.click("later")
    assert seen(browser) == pytest.approx([1200, 2000])
    browser.click("all")
    assert seen(browser) == whole
    browser.drag("#timeline .nsewdrag", since=0.25, until=0.5)
    assert seen(browser) == pytest.approx([500, 1000], abs=40)


def test_choosing_a_contender_changes_its_pictures_and_says_what_there_is_not(browser, folder):
    browser.open(shown(example_report(), folder))
    bars = "return document.querySelectorAll('#waterfall .trace path').length"
    assert browser.run(bars) == 19
    assert browser.run("return document.getElementById('workers').hidden") is False
    browser.choose("contender", 1)
    assert browser.run(bars) == 6
    assert browser.run("return document.getElementById('workers').hidden") is True
    assert "Workers were not varied" in browser.run("return document.body.innerText")


def test_a_report_with_nothing_optional_is_drawn_too(browser, folder):
    browser.open(shown(report(), folder, "least"), width=PHONE)
    assert browser.complaints() == []
    assert browser.run(WITHOUT_A_PICTURE) == []
    assert "No timeline was kept" in browser.run("return document.body.innerText")
    assert sideways(browser) == []
