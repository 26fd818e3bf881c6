"""The contenders train on the same samples; only the way there differs."""

import itertools

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.starvation.contenders import InlineTokenization, ResidentBatch, Stoker, find_units
from loaders import TokenDataset
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError

SEQ_LEN, ROWS = 128, 4


def inline(made, workers: int) -> InlineTokenization:
    tokenizer = load_tokenizer(made.tokenizer)
    units = find_units(made.files, workers)
    assert tokenizer.end_id is not None
    return InlineTokenization(units, tokenizer.blob, tokenizer.end_id, SEQ_LEN, ROWS, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_inline_tokenization_packs_the_very_samples_of_the_dataset(made, workers):
    dataset = TokenDataset(made.tokens, SEQ_LEN)
    steps = len(dataset) // ROWS
    assert steps > 100
    for step, batch in enumerate(itertools.islice(inline(made, workers).open(), steps)):
        samples = dataset[step * ROWS : (step + 1) * ROWS]
        expected = torch.stack([sample["input_ids"] for sample in samples])
        assert torch.equal(batch["input_ids"], expected)
        assert torch.equal(batch["labels"], batch["input_ids"])


def test_inline_workers_share_the_text_and_never_end(made):
    dataset = TokenDataset(made.tokens, SEQ_LEN)
    units = find_units(made.files, 2)
    assert len(units) >= 2
    steps = 2 * (len(dataset) // ROWS) + 5
    batches = itertools.islice(inline(made, 2).open(), steps)
    first = {tuple(row[:16].tolist()) for batch in batches for row in batch["input_ids"]}
    # Two workers together see the whole text: more distinct rows than either half has.
    assert len(first) > 0.8 * len(dataset)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_more_workers_than_units_all_work(made):
    one = find_units(made.files[:1], 1)[:1]
    job = inline(made, 3)
    job.units = one
    batches = list(itertools.islice(job.open(), 9))
    assert all(batch["input_ids"].shape == (ROWS, SEQ_LEN) for batch in batches)


@pytest.mark.timeout(60)
def test_workers_share_a_file_of_one_row_group_instead_of_spinning(made, tmp_path):
    path = tmp_path / "one.parquet"
    pq.write_table(pq.read_table(made.files[0]), path, row_group_size=10**6)
    job = inline(made, 2)
    job.units = find_units([str(path)], 2)
    assert len(job.units) > 1
    batches = list(itertools.islice(job.open(), 8))
    assert len(batches) == 8


@pytest.mark.timeout(60)
def test_text_without_documents_is_an_error_and_not_a_hang(made, tmp_path):
    path = tmp_path / "none.parquet"
    pq.write_table(pq.read_table(made.files[0]).slice(0, 0), path)
    job = inline(made, 0)
    job.units = find_units([str(path)], 1)
    with pytest.raises(StokerError, match="holds no document"):
        next(job.open())


def test_stoker_goes_on_after_an_epoch_and_tells_the_way_of_its_batches(made):
    stoker = Stoker(made.tokens, SEQ_LEN, ROWS)
    steps = len(TokenDataset(made.tokens, SEQ_LEN)) // ROWS
    batches = list(itertools.islice(stoker.open(), steps + 3))
    assert len(batches) == steps + 3
    rows = stoker.timeline()
    assert len(rows) == steps + 3
    for earlier, later in itertools.pairwise(("asked", "arrived", "assembled", "delivered")):
        assert (rows[earlier] <= rows[later]).all()


def test_a_dataset_smaller_than_a_batch_is_refused(made):
    with pytest.raises(StokerError, match="less than one batch of 1000000"):
        next(Stoker(made.tokens, SEQ_LEN, 1_000_000).open())


def test_the_resident_batch_is_one_object():
    batch = {"input_ids": torch.zeros(1, 1), "labels": torch.zeros(1, 1)}
    batches = ResidentBatch(batch).open()
    assert next(batches) is next(batches) is batch
