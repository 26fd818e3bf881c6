"""Padded and packed, the loss is computed on the same tokens; Stoker loses none."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.starvation.deck.data import write_rows
from benchmarks.starvation.deck.loop import Material, count_deck, material
from benchmarks.starvation.deck.packed import FORM, filled
from benchmarks.starvation.deck.targets import count, shifted
from loaders import DataLoader, TokenDataset
from loaders.blocks import IGNORED
from loaders.form import Labels
from pipelines.options import ReadOptions
from pipelines.tokenizer import Tokenizer
from tests.benchmarks.words import VOCABULARY, lines, write_tokenizer

LENGTH, BATCH = 16, 4
# Of the property: ids are places in the stream, so each token is known apart.
NUMBERS = Tokenizer("numbers", '{"model": {"vocab": {"last": 4095}}}', None, None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def material_of(lengths: Sequence[int], tokenizer: str, folder: Path, length: int = LENGTH) -> Any:
    path = folder / "rows.txt"
    path.write_text("".join(line + "\n" for line in lines(lengths)))
    reading = ReadOptions(text_split="line")
    return material([str(path)], tokenizer, reading, batch_size=BATCH, max_length=length)


def packed_batches(made: Material, **options: Any) -> Iterator[Any]:
    dataset = TokenDataset(made.packed.uri, made.packed.seq_len, **FORM, **options)
    return iter(DataLoader(dataset, BATCH, shuffle=True))


def padded_batches(made: Material) -> Iterator[Any]:
    return itertools.islice(made.padded.open(), made.padded.steps_per_epoch)


def predictions(batch: Any) -> Counter[tuple[tuple[int, ...], int]]:
    """What a model that shifts its labels is asked: (all tokens it may attend to, the next one)."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    alone = torch.arange(len(ids[0])).expand(len(ids), -1)
    positions = batch.get("position_ids", alone).tolist()
    asked: Counter[tuple[tuple[int, ...], int]] = Counter()
    for row, wanted, places in zip(ids, labels, positions, strict=True):
        for at in range(1, len(row)):
            if wanted[at] != IGNORED:
                asked[tuple(row[at - 1 - places[at - 1] : at]), wanted[at]] += 1
    return asked


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(2, LENGTH))
def test_every_token_but_a_rows_first_is_a_target_once_however_long_the_rows_are(lengths, length):
    ends = list(itertools.accumulate(lengths))
    rows = [range(end - n, end) for end, n in zip(ends, lengths, strict=True)]
    if ends[-1] < length:
        lengths = [*lengths, length]
        rows.append(range(ends[-1], ends[-1] + length))
    expected = {token for row in rows for token in row[1:]}
    with TemporaryDirectory() as folder:
        uri = write_rows(Path(folder) / "tokens", rows, NUMBERS, length)
        made: dict[Labels, list[int]] = {"same": [], "next": []}
        for labels in made:
            dataset = TokenDataset(uri, length, packing="best_fit", document_mask=True,
                                   labels=labels)  # fmt: skip
            for batch in DataLoader(dataset, BATCH, shuffle=True):
                wanted = batch["labels"]
                found = shifted(batch) if labels == "same" else wanted[wanted != IGNORED]
                made[labels] += found.tolist()
    assert sorted(made["next"]) == sorted(expected)
    # A model that shifts labels itself misses the first token of each further piece of a row.
    pieces = {token for row in rows for token in row[length::length]}
    assert sorted(made["same"]) == sorted(expected - pieces)


def test_rows_that_fit_are_the_same_predictions_from_the_same_contexts(tokenizer, tmp_path):
    lengths = [0, 3, 15, 0, 1, 7, 9, 2, 15, 4, 4, 0, 11, 6, 1, 8, 13]
    with material_of(lengths, tokenizer, tmp_path) as made:
        padded = sum(map(predictions, padded_batches(made)), Counter())
        packed = sum(map(predictions, packed_batches(made)), Counter())
        deck = count_deck(made)
    assert padded == packed
    assert padded.total() == sum(lengths) == deck.text_tokens
    assert (deck.missing, deck.extra, deck.cut_tokens, deck.not_predicted) == (0, 0, 0, 0)
    assert (deck.rows, deck.empty_rows) == (17, 3)
    assert [epoch.targets for epoch in deck.epochs] == [sum(lengths)] * 2


def test_what_the_deck_cuts_off_is_counted_and_stoker_trains_it(tokenizer, tmp_path):
    # Rows begin with a token of their own: 15 more fit. 20 has one further piece, 50 has three.
    lengths = [20, 3, 50, 0, 15, 8, 1]
    with material_of(lengths, tokenizer, tmp_path) as made:
        deck = count_deck(made)
        plain = TokenDataset(made.packed.uri, LENGTH, packing="best_fit")
        unmasked = count(iter(DataLoader(plain, BATCH)), made.vocabulary)
    assert (deck.cut_rows, deck.cut_tokens) == (2, 5 + 35)
    assert (deck.missing, deck.not_predicted, deck.extra) == (0, 1 + 3, 40 - 4)
    padded, packed = deck.epochs
    assert deck.crossing == unmasked.target_tokens - packed.targets > 0
    assert padded.targets == deck.text_tokens - 40
    assert packed.targets == deck.text_tokens - 4
    assert (padded.tokens, packed.tokens) == (sum(lengths) + 7 - 40, sum(lengths) + 7)
    assert packed.slots == packed.rows * LENGTH


def test_the_mask_that_stokers_batches_get_is_that_of_rows_without_a_document_mask(
    tokenizer, tmp_path
):
    lengths = [0, 3, 15, 0, 20, 7, 9, 2, 15, 4, 4, 0, 11, 6, 1, 8, 13]
    with material_of(lengths, tokenizer, tmp_path) as made:
        dataset = TokenDataset(made.packed.uri, LENGTH, packing="best_fit")
        masked = TokenDataset(made.packed.uri, LENGTH, **FORM)
        pairs = zip(DataLoader(dataset, BATCH), DataLoader(masked, BATCH), strict=True)
        for plain, ours in pairs:
            assert torch.equal(filled(ours), plain["attention_mask"])
        first = next(made.packed.open())
        assert {"input_ids", "labels", "position_ids", "attention_mask"} <= set(first)


@pytest.fixture(scope="module")
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2 * LENGTH,
        attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def summed_loss(model: Any, batches: Iterator[Any], *keys: str) -> float:
    """Over all targets of the batches; the model also gets these keys of them."""
    total = 0.0
    for batch in batches:
        more = {key: batch[key] for key in keys}
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], **more).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        ).item()
    return total


def test_the_loss_summed_over_an_epoch_is_the_same_padded_and_packed(llama, tokenizer, tmp_path):
    lengths = [0, 3, 15, 0, 1, 7, 9, 2, 15, 4, 4, 0, 11, 6, 1, 8, 13, 14, 5, 5]
    with material_of(lengths, tokenizer, tmp_path) as made:
        padded = summed_loss(llama, padded_batches(made), "attention_mask")
        packed = summed_loss(llama, packed_batches(made), "position_ids")
        mixed = summed_loss(llama, packed_batches(made))
    assert packed == pytest.approx(padded, rel=1e-12)
    # Where documents attend to each other it is another one: the test can tell.
    assert mixed != pytest.approx(padded, rel=1e-5)


def test_an_epoch_is_counted_whatever_its_last_batch(tokenizer, tmp_path):
    with material_of([1, 2, 3, 4, 5], tokenizer, tmp_path) as made:
        counted = count(padded_batches(made), made.vocabulary)
    assert (counted.steps, counted.rows) == (2, 5)
    assert counted.tokens == 15 + 5
    assert counted.target_tokens == 15
    assert counted.slots >= counted.tokens


@pytest.mark.slow
def test_wikitexts_rows_give_the_decks_padding_and_all_its_targets(shared):
    data = shared / "data"
    files = [str(data / "wikitext-2" / f"{name}.parquet") for name in ("valid", "test")]
    with material(files, str(data / "tokenizers" / "llama-3"), ReadOptions()) as made:
        deck = count_deck(made)
    padded, packed = deck.epochs
    assert (deck.rows, deck.empty_rows, deck.cut_rows, deck.cut_tokens) == (8118, 2766, 1, 70)
    assert (padded.steps, packed.steps) == (508, 70)
    assert 275 < padded.mean_length < 285
    assert 0.245 < padded.padding_efficiency < 0.255
    assert packed.padding_efficiency > 0.99
    assert (deck.missing, deck.extra, deck.not_predicted) == (0, 69, 1)
    assert deck.per_slot > 3.9
