"""The deck's job as two contenders over the same rows: what is counted of them, what is timed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.starvation.contenders import PaddedRows, find_units
from benchmarks.starvation.contenders.padded import begin_token, encode_rows, open_tokenizer
from benchmarks.starvation.deck.data import write_rows
from benchmarks.starvation.deck.packed import FORM, PackedRows, filled
from benchmarks.starvation.deck.result import Deck, DeckCard, DeckEpoch, DeckTime
from benchmarks.starvation.deck.targets import Counted, beyond, count
from benchmarks.starvation.explain.result import Result
from benchmarks.starvation.explain.statistics import Estimate
from loaders import DataLoader, TokenDataset
from pipelines.options import ReadOptions
from pipelines.tokenizer import load_tokenizer

# The deck's own: rows of WikiText-2's train split, and how it trained on them.
TRAIN_ROWS, BATCH_SIZE, MAX_LENGTH = 36_718, 16, 512


@dataclass(frozen=True)
class Material:
    """The same rows for both: `whole`, ids of each; `padded` cuts them, `packed` doesn't."""

    whole: Sequence[Sequence[int]]
    padded: PaddedRows
    packed: PackedRows
    vocabulary: int


@contextmanager
def material(
    text: Sequence[str],
    tokenizer: str,
    reading: ReadOptions,
    *,
    batch_size: int = BATCH_SIZE,
    max_length: int = MAX_LENGTH,
    pin_memory: bool = False,
) -> Iterator[Material]:
    """Tokenize the rows of `text` once; Stoker's copy of them lies on disk until the block ends.

    Raises:
        StokerError: no such text or tokenizer, or text without rows.
    """
    units = find_units(text, 1, reading)
    opened = open_tokenizer(tokenizer)
    whole = encode_rows(units, opened, reading)
    begins = begin_token(opened) is not None
    serialized = load_tokenizer(tokenizer, append_eos=False, prepend_bos=begins)
    with TemporaryDirectory(prefix="stoker-deck-") as folder:
        uri = write_rows(Path(folder) / "tokens", whole, serialized, max_length)
        yield Material(
            whole,
            PaddedRows(
                units, tokenizer, batch_size, max_length, reading=reading, pin_memory=pin_memory
            ),
            PackedRows(uri, max_length, batch_size, pin_memory=pin_memory),
            serialized.largest_id + 1,
        )


def count_deck(made: Material) -> Deck:
    """Go through an epoch of both, off the clock; no card is in it yet."""
    padded, packed = made.padded, made.packed
    cut = [len(row) - padded.max_length for row in made.whole if len(row) > padded.max_length]
    collated = count(islice(padded.open(), padded.steps_per_epoch), made.vocabulary)
    dataset = TokenDataset(packed.uri, packed.seq_len, **FORM)
    rows = DataLoader(dataset, packed.batch_size)
    ours = count(({**batch, "attention_mask": filled(batch)} for batch in rows), made.vocabulary)
    text_tokens = sum(len(row) - 1 for row in made.whole)
    epochs = _epoch(padded.name, padded.title, collated), _epoch(packed.name, packed.title, ours)
    return Deck(
        rows=len(made.whole),
        empty_rows=sum(len(row) == 1 for row in made.whole),
        train_rows=TRAIN_ROWS,
        max_length=padded.max_length,
        batch_size=padded.batch_size,
        text_tokens=text_tokens,
        cut_rows=len(cut),
        cut_tokens=sum(cut),
        missing=beyond(collated.targets, ours.targets),
        extra=beyond(ours.targets, collated.targets),
        not_predicted=text_tokens - ours.target_tokens,
        # Without a mask all but the first token of a row is predicted.
        crossing=ours.tokens - ours.rows - ours.target_tokens,
        per_slot=_per_slot(epochs[1]) / _per_slot(epochs[0]),
        epochs=epochs,
        cards=(),
    )


def time_card(
    deck: Deck, titled: tuple[str, str, bool, str], results: Sequence[Result], scale: float
) -> DeckCard:
    """What the measured `results`, one for each of the deck's epochs, say about one card.

    `titled`: the first fields of a `DeckCard`. `scale`: of the emulator's time, 1 on a real card.
    """
    times = tuple(
        _time(deck, epoch, result, scale)
        for epoch, result in zip(deck.epochs, results, strict=True)
    )
    first, last = times[0].targets_per_s, times[-1].targets_per_s
    ratio = Estimate(last.value / first.value, last.low / first.high, last.high / first.low)
    return DeckCard(*titled, times, ratio)


def _time(deck: Deck, epoch: DeckEpoch, result: Result, scale: float) -> DeckTime:
    # The window is not a whole epoch: of it come slots a second, the rest from the epoch's counts.
    slots = scale / result.figures.padding_efficiency
    tokens = result.estimates["tokens_per_s"]
    share = slots * _per_slot(epoch)
    epoch_s = epoch.slots / (slots * tokens.value)
    train_steps = math.ceil(deck.train_rows * epoch.rows / deck.rows / deck.batch_size)
    return DeckTime(
        name=epoch.name,
        step_s=epoch_s / epoch.steps,
        epoch_s=epoch_s,
        targets_per_s=Estimate(*(share * x for x in (tokens.value, tokens.low, tokens.high))),
        stall_rate=result.estimates["stall_rate"],
        train_steps=train_steps,
        train_s=epoch_s * deck.train_rows / deck.rows,
    )


def _epoch(name: str, title: str, counted: Counted) -> DeckEpoch:
    return DeckEpoch(
        name=name,
        title=title,
        steps=counted.steps,
        rows=counted.rows,
        slots=counted.slots,
        tokens=counted.tokens,
        targets=counted.target_tokens,
        padding_efficiency=counted.tokens / counted.slots,
        mean_length=counted.slots / counted.rows,
    )


def _per_slot(epoch: DeckEpoch) -> float:
    return epoch.targets / epoch.slots
