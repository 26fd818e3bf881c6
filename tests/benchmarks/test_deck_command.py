"""The command that reproduces the deck's loop, from text to pages."""

import json

import pytest

from benchmarks.starvation.cards.profiles import PROFILES, Profile
from benchmarks.starvation.deck.command import CARDS, DeckOptions, main, run
from benchmarks.starvation.deck.result import Deck
from tests.benchmarks.test_report import validate
from tests.benchmarks.words import lines, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.slow
def test_each_card_gets_a_report_with_the_table_of_all_cards(tokenizer, tmp_path):
    text = tmp_path / "rows.txt"
    text.write_text("\n".join(lines([(7 * n) % 60 for n in range(400)])))
    options = DeckOptions(
        text=(str(text),),
        tokenizer=tokenizer,
        output=tmp_path / "report",
        max_length=64,
        steps=20,
        seeds=1,
        warmup=3,
    )
    for card, made in zip(CARDS, run(options), strict=True):
        assert made.finding.startswith("Stoker's packed rows train")
        folder = options.output / card
        document = json.loads((folder / "report.json").read_text())
        validate(document)
        assert [each["name"] for each in document["deck"]["cards"]] == list(CARDS)
        assert document["deck"]["missing"] == 0
        assert (folder / "report.html").exists()
        assert (folder / "steps.parquet").exists()
        check_times(made.deck, PROFILES[card])


def check_times(deck: Deck | None, profile: Profile) -> None:
    """Arithmetic, and no step that is shorter than the card's own time for it."""
    assert deck is not None
    assert deck.per_slot > 1.5
    (card,) = (each for each in deck.cards if each.name == profile.name)
    for time, epoch in zip(card.times, deck.epochs, strict=True):
        assert time.epoch_s * time.targets_per_s.value == pytest.approx(epoch.targets)
        assert time.epoch_s == pytest.approx(time.step_s * epoch.steps)
        # Slots are those of the epoch, `a` that of the window's steps: a tenth for both.
        assert time.step_s > 0.9 * profile.step_ns(epoch.slots / epoch.steps) / 1e9


@pytest.mark.slow
def test_real_steps_on_the_cpu_are_told_as_such_and_not_scaled(tokenizer, tmp_path):
    text = tmp_path / "rows.txt"
    text.write_text("\n".join(lines([(7 * n) % 30 for n in range(200)])))
    options = DeckOptions(
        text=(str(text),),
        tokenizer=tokenizer,
        output=tmp_path / "report",
        model="tiny",
        max_length=32,
        steps=10,
        seeds=1,
        warmup=3,
    )
    (report,) = run(options)
    assert not report.emulated
    assert report.deck is not None
    (card,) = report.deck.cards
    assert (card.name, card.emulated, card.source) == ("real-tiny", False, "measured on it")
    assert "tiny" in card.accelerator
    assert "emulated" not in (options.output / "real-tiny" / "report.md").read_text()
    for time, result in zip(card.times, report.results, strict=True):
        slots_per_s = result.estimates["tokens_per_s"].value / result.figures.padding_efficiency
        (epoch,) = (each for each in report.deck.epochs if each.name == time.name)
        assert time.epoch_s == pytest.approx(epoch.slots / slots_per_s)


@pytest.mark.parametrize("wrong", ["--text", "--tokenizer"])
def test_what_does_not_exist_is_named_before_anything_is_measured(
    wrong, tokenizer, tmp_path, capsys
):
    text = tmp_path / "rows.txt"
    text.write_text("w1 w2")
    given = {"--text": str(text), "--tokenizer": tokenizer, "--output": str(tmp_path / "report")}
    given[wrong] = str(tmp_path / "missing")
    assert main([word for pair in given.items() for word in pair]) == 1
    said = capsys.readouterr().err
    assert said.startswith("deck: ")
    assert str(tmp_path / "missing") in said
    assert not (tmp_path / "report").exists()
