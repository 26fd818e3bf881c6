"""The deck's table in every form of the report."""

import json
from dataclasses import replace

import pytest

from benchmarks.starvation.deck.words import console
from benchmarks.starvation.reports.charts import deck as pictures
from benchmarks.starvation.reports.markdown import markdown
from benchmarks.starvation.reports.page import render
from tests.benchmarks.reports import example_deck, example_report
from tests.benchmarks.support import report
from tests.benchmarks.test_report import validate


@pytest.fixture(scope="module")
def made():
    return replace(example_report(), deck=example_deck())


def test_the_verdict_begins_with_what_packing_brings(made):
    assert made.finding.startswith(
        "Stoker's packed rows train 4.0 times as many tokens a second as the deck's collate on an"
        " emulated L40S; Stoker starved 0.9 %"
    )


def test_the_document_with_the_decks_table_is_valid_by_its_schema(made):
    document = json.loads(made.to_json())
    validate(document)
    assert document["deck"]["cards"][0]["times"][1]["train_steps"] == 316


@pytest.mark.parametrize("form", [render, markdown, lambda made: console(made.deck)])
def test_every_form_has_the_figures_and_says_what_is_projected_or_emulated(made, form):
    said = form(made).replace("\\", "")
    for figure in ("2,240,000", "552,069", "25.0 %", "4 min 10 s", "3.97 times", "2,295"):
        assert figure in said
    assert "36,718 rows (projected)" in said
    assert "emulated(L40S 1B padded to 280, time x 0.04)" in said


def test_targets_that_are_lost_are_not_passed_over(made):
    lost = replace(made.deck, missing=12)
    assert "NOT the same: 12 of the deck's targets" in console(lost)
    assert "NOT the same" not in console(made.deck)


def test_the_pictures_name_every_emulated_card_and_add_up_to_the_slots(made):
    slots, minutes = pictures.slots(made), pictures.seconds(made)
    assert slots is not None
    assert minutes is not None
    assert slots["layout"]["title"]["text"].startswith("emulated(")
    assert minutes["layout"]["title"]["text"] == "emulated L40S, uncalibrated"
    stacked = [sum(values) for values in zip(*(one["x"] for one in slots["data"]), strict=True)]
    assert stacked == [epoch.slots for epoch in made.deck.epochs][::-1]


def test_a_report_without_the_deck_has_no_such_section():
    assert pictures.slots(report()) is None
    assert "fine-tuning loop" not in render(report())
    assert "fine-tuning loop" not in markdown(report())
