"""The deck's table and what it shows, in words: the same for console, report.md and page."""

from __future__ import annotations

from benchmarks.starvation.deck.result import Deck, DeckCard
from benchmarks.starvation.explain.statistics import Estimate

Rows = list[tuple[str, list[str]]]
GOAL = 3.5


def headline(deck: Deck) -> str:
    """What packing brings, in a sentence without its end."""
    once = "times as many tokens a second as the deck's collate "
    said = [
        f"{card.ratio.value:.1f} {once if card is deck.cards[0] else 'times '}on {_one(card)}"
        for card in deck.cards
    ]
    return f"Stoker's packed rows train {' and '.join(said)}"


def title_row(deck: Deck) -> list[str]:
    """What the columns of the two tables are about."""
    return [epoch.title for epoch in deck.epochs]


def epoch_rows(deck: Deck) -> Rows:
    """(what, a value for each way): an epoch, counted."""

    def each(value: str, of: str = ",") -> list[str]:
        return [format(getattr(epoch, value), of) for epoch in deck.epochs]

    return [
        ("rows of batches", each("rows")),
        ("steps an epoch", each("steps")),
        ("slots", each("slots")),
        ("slots a row, mean", each("mean_length", ".1f")),
        ("tokens", each("tokens")),
        ("padding efficiency", [_share(e.padding_efficiency) for e in deck.epochs]),
        ("tokens the loss is computed on", each("targets")),
    ]


def card_rows(deck: Deck, card: DeckCard) -> Rows:
    """(what, a value for each way): one card, timed; the last rows are a projection."""
    times = card.times
    return [
        ("step", [f"{time.step_s:.3f} s" for time in times]),
        ("epoch", [_duration(time.epoch_s) for time in times]),
        ("starved", [_interval(time.stall_rate, 100, " %", 2) for time in times]),
        ("trained tokens a second", [_interval(time.targets_per_s, 1, "", 0) for time in times]),
        (
            f"steps over {deck.train_rows:,} rows (projected)",
            [f"{time.train_steps:,}" for time in times],
        ),
        ("time of those (projected)", [_duration(time.train_s) for time in times]),
    ]


def ratio(card: DeckCard) -> str:
    """`4.06 times [4.01, 4.10]`."""
    return _interval(card.ratio, 1, " times", 2)


def same_tokens(deck: Deck) -> list[str]:
    """Sentences: which tokens the loss is computed on, in either way."""
    said = [
        f"Both train on the same {deck.rows:,} rows ({deck.empty_rows:,} of them empty). No row's"
        f" first token is predicted; {deck.text_tokens:,} others are to be.",
        f"The deck's collate cuts {_rows(deck.cut_rows)} at {deck.max_length} tokens and loses"
        f" {deck.cut_tokens:,}. Stoker cuts none.",
    ]
    if deck.missing:
        said.append(f"NOT the same: {deck.missing:,} of the deck's targets are none of Stoker's.")
    else:
        said.append(
            f"All of the deck's targets are Stoker's too, counted by id; {deck.extra:,} more are."
        )
    if deck.not_predicted:
        said.append(
            f"Of the {deck.cut_tokens:,} cut off, {deck.not_predicted:,} begins a further piece:"
            " a model that shifts its labels itself, as HF's do, doesn't predict that. With"
            ' labels="next" nothing is left out.'
        )
    said.append(
        f"Without document_mask Stoker would train {deck.crossing:,} tokens more: first ones,"
        " predicted from the end of another row of the text."
    )
    return said


def notes(deck: Deck) -> list[str]:
    """What the figures rest on."""
    padded = deck.epochs[0]
    said = [
        f"Projected to the deck's {deck.train_rows:,} train rows: those are not at hand, they are"
        f" taken to be as long as these {deck.rows:,}."
    ]
    if any(card.emulated for card in deck.cards):
        said.append(
            "A step takes a + b x slots: a is the optimizer's pass over the weights (derived from"
            " the card's memory bandwidth), b what is left of the deck's wall time a step over"
            f" 16 x 280 slots; here rows are {padded.mean_length:.1f} slots in the mean. That wall"
            " time holds all of the deck's loop: an upper bound of what its card computed. So the"
            " padded time is the deck's by construction; what is found here is the packed one, and"
            " what either waits for input."
        )
    return said


def console(deck: Deck) -> str:
    """All of it, as text."""
    tables: list[tuple[str, list[str]]] = [("an epoch", title_row(deck)), *epoch_rows(deck)]
    for card in deck.cards:
        tables += [("", []), (card.accelerator, []), *card_rows(deck, card)]
        tables.append(("ratio", ["", ratio(card)]))
    first = max(len(what) for what, values in tables if values)
    widths = [max(len(v[i]) for _, v in tables if v) for i in range(len(deck.epochs))]
    lines = [
        what.ljust(first if values else 0)
        + "".join(f"  {v:>{w}}" for v, w in zip(values, widths, strict=False))
        for what, values in tables
    ]
    return "\n".join([headline(deck) + ".", "", *lines, "", *same_tokens(deck), *notes(deck)])


def name(card: DeckCard) -> str:
    """`emulated L40S`: short, and never without that word."""
    if not card.emulated:
        return card.accelerator
    return f"emulated {card.name.partition('-')[0].upper()}"


def _one(card: DeckCard) -> str:
    return f"an {name(card)}" if card.emulated else name(card)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _interval(estimate: Estimate, scale: float, unit: str, digits: int) -> str:
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:,.{digits}f}{unit} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
