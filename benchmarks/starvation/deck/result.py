"""What a run of the deck's loop found: the same rows padded and packed, on one or more cards."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.starvation.explain.statistics import Estimate


@dataclass(frozen=True)
class DeckEpoch:
    """One way through all rows, counted batch by batch.

    Attributes:
        name: of the contender. steps: batches, a short last one too. rows: of all batches.
        slots: token positions of all batches. tokens: those that are no padding.
        targets: those that the loss is computed on. padding_efficiency: tokens / slots.
        mean_length: slots of a row.
    """

    name: str
    title: str
    steps: int
    rows: int
    slots: int
    tokens: int
    targets: int
    padding_efficiency: float
    mean_length: float


@dataclass(frozen=True)
class DeckTime:
    """One way on one card, in the card's own time, whatever the emulator's scale.

    Attributes:
        epoch_s: the epoch's slots at the measured slots a second. step_s: that, a step of them.
        targets_per_s: tokens that the loss is computed on, a second.
        train_steps, train_s: PROJECTED to the deck's own train rows, which are not at hand.
    """

    name: str
    step_s: float
    epoch_s: float
    targets_per_s: Estimate
    stall_rate: Estimate
    train_steps: int
    train_s: float


@dataclass(frozen=True)
class DeckCard:
    """One card: `name` of its profile, or `real-1b` where steps of that model were really run.

    `ratio`: of the last way's `targets_per_s` to the first's, with an interval that holds whatever
    both intervals allow.
    """

    name: str
    accelerator: str
    emulated: bool
    source: str
    times: tuple[DeckTime, ...]
    ratio: Estimate


@dataclass(frozen=True)
class Deck:
    """The deck's collate first, Stoker last, in `epochs` as in the `times` of each card.

    Attributes:
        rows, empty_rows: of the text. train_rows: of the deck's own job, for the projection.
        max_length: what the deck cuts rows to, and Stoker's rows. batch_size: rows a step.
        text_tokens: of all rows but each one's first, which nothing predicts.
        cut_rows, cut_tokens: what the deck's collate cuts off.
        missing: targets of the deck's that are none of Stoker's, as multisets of ids; extra: the
            other way round. not_predicted: text tokens that are no target of Stoker's, since they
            begin a further piece of a longer row and the model shifts its labels itself.
        crossing: targets more that Stoker's rows would have without a document mask: first tokens,
            predicted from the end of another document.
        per_slot: ratio of targets a slot: what packing alone brings at equal cost of a slot.
    """

    rows: int
    empty_rows: int
    train_rows: int
    max_length: int
    batch_size: int
    text_tokens: int
    cut_rows: int
    cut_tokens: int
    missing: int
    extra: int
    not_predicted: int
    crossing: int
    per_slot: float
    epochs: tuple[DeckEpoch, ...]
    cards: tuple[DeckCard, ...]
