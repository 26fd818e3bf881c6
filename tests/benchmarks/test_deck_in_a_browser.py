"""The deck's section as a reader sees it: in Chromium, from disk, light and dark, any width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.starvation.reports.page import render
from tests.benchmarks.browser import DESKTOP, PHONE, Browser, browse
from tests.benchmarks.reports import example_deck, example_report
from tests.benchmarks.test_page_in_a_browser import WITHOUT_A_PICTURE, sideways

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browse() as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    deck = example_deck()
    card = replace(deck.cards[0], name="a100-1b-deck", accelerator="emulated(<b>another</b> card)")
    made = replace(example_report(), deck=replace(deck, cards=(*deck.cards, card)))
    path: Path = tmp_path_factory.mktemp("deck") / "report.html"
    path.write_text(render(made), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_both_charts_are_drawn_and_nothing_is_cut_off(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.run("return document.querySelectorAll('[id^=deck-].chart').length") == 2
    assert browser.run(WITHOUT_A_PICTURE) == []
    assert sideways(browser) == []
    # Both columns of figures are seen on a phone without moving the table.
    table = "document.querySelector('#deck-seconds').closest('main').querySelector('.scroll')"
    assert browser.run(f"return {table}.scrollWidth - {table}.clientWidth") <= 0


def test_the_name_of_a_card_stays_text(browser, page):
    browser.open(page)
    assert "<b>another</b>" in browser.run("return document.querySelector('main').innerText")
