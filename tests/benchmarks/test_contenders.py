"""The contenders train on the same samples; only the way there differs."""

import itertools
import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.starvation.contenders import (
    Contender,
    InlineTokenization,
    OwnLoader,
    PaddedRows,
    ResidentBatch,
    Stoker,
    find_units,
)
from benchmarks.starvation.loop.recording import WORK
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


@pytest.mark.parametrize("workers", [0, 2])
def test_every_inline_batch_tells_which_worker_did_what_for_it_and_when(made, workers):
    job = inline(made, workers)
    taken = len(list(itertools.islice(job.open(), 40)))
    rows = job.timeline()
    assert rows.dtype == WORK
    assert np.unique(rows["batch"]).tolist() == list(range(taken))
    assert set(rows["worker"]) == ({0, 1} if workers else {0})
    assert set(rows["kind"]) == {"fetch", "prep", "assemble"}
    assert (rows["stop"] >= rows["start"]).all()
    for worker in set(rows["worker"]):
        mine = np.sort(rows[rows["worker"] == worker], order="start")
        assert (mine["start"][1:] >= mine["stop"][:-1]).all()
        assert (np.diff(mine["batch"]) >= 0).all()


def test_a_slow_worker_is_slow_in_its_own_batches_only(made):
    job = inline(made, 2)
    job.slow_worker_s = 0.05
    list(itertools.islice(job.open(), 12))
    rows = job.timeline()
    took = {
        batch: int((these["stop"] - these["start"]).sum())
        for batch in range(12)
        for these in (rows[rows["batch"] == batch],)
    }
    assert all(ns >= 50_000_000 for batch, ns in took.items() if batch % 2 == 0)
    assert np.median([ns for batch, ns in took.items() if batch % 2]) < 50_000_000


def test_the_same_batches_come_from_s3_with_latency_and_the_environment_is_left_alone(
    made, monkeypatch
):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    far, near = (
        Stoker(made.tokens, SEQ_LEN, ROWS, latency_ms=20.0),
        Stoker(made.tokens, SEQ_LEN, ROWS),
    )
    assert (far.name, far.title) == ("stoker-s3-20ms", "Stoker, S3 + 20 ms")
    with pytest.raises(StokerError, match="inside its ready"):
        next(far.open())
    with far.ready():
        for ours, theirs in zip(
            itertools.islice(far.open(), 5), itertools.islice(near.open(), 5), strict=True
        ):
            assert torch.equal(ours["input_ids"], theirs["input_ids"])
        waited = far.timeline()
        assert waited["arrived"][0] - waited["asked"][0] >= 20_000_000
    after = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert after == before


def test_the_decks_collate_wastes_three_quarters_of_its_slots(shared):
    files = [str(shared / "data" / "wikitext-2" / f"{name}.parquet") for name in ("valid", "test")]
    folder = str(shared / "data" / "tokenizers" / "llama-3")
    deck = PaddedRows(find_units(files, 1), folder, batch_size=16)
    assert len(deck.rows) == 8118
    assert deck.steps_per_epoch == 508
    batches = list(itertools.islice(deck.open(), deck.steps_per_epoch))
    assert sum(len(batch["input_ids"]) for batch in batches) == 8118
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert max(lengths) <= 512
    assert 260 < np.mean(lengths) < 300
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    slots = sum(batch["input_ids"].numel() for batch in batches)
    assert 0.23 < tokens / slots < 0.27
    for batch in batches[:20]:
        padding = batch["attention_mask"] == 0
        assert (batch["labels"][padding] == -100).all()
        # HF's collator pads with the end token and hides that everywhere.
        hidden = int((batch["labels"] == -100).sum() - padding.sum())
        assert 0 <= hidden <= len(padding)


def write_loader(folder, text: str, monkeypatch) -> None:
    (folder / "my_loader.py").write_text("import torch\n" + text)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(__import__("sys").modules, "my_loader", raising=False)
    monkeypatch.syspath_prepend(str(folder))


def test_a_loader_of_ones_own_is_asked_for_epoch_after_epoch(tmp_path, monkeypatch):
    text = """
def make():
    ids = torch.arange(6).reshape(3, 1, 2)
    return [{"input_ids": row, "labels": row} for row in ids]
"""
    write_loader(tmp_path, text, monkeypatch)
    own = OwnLoader("my_loader:make")
    firsts = [int(batch["input_ids"][0, 0]) for batch in itertools.islice(own.open(), 7)]
    assert firsts == [0, 2, 4, 0, 2, 4, 0]
    assert own.timeline() is None


@pytest.mark.parametrize(
    ("spec", "returned", "message"),
    [
        ("my_loader", "[]", "must be module:function"),
        ("my_loader:nothing", "[]", "has no function nothing"),
        ("no_such_module_here:make", "[]", "No module named"),
        ("my_loader:make", "7", "returned int: it must return batches"),
        ("my_loader:make", "[]", "gave no batch"),
        ("my_loader:make", "[torch.zeros(2)]", "gave Tensor: a batch must be"),
        ("my_loader:make", "[{'input_ids': torch.zeros(2)}]", "and labels or attention_mask"),
        ("my_loader:make", "[{'input_ids': [1], 'labels': [1]}]", "'builtins.list'.* of tensors"),
        (
            "my_loader:make",
            "[dict.fromkeys(('input_ids', 'labels'), torch.zeros(1, 2))]",
            "input_ids that are float32: ids are whole numbers",
        ),
        ("my_loader:make", "[1 / 0]", "failed: ZeroDivisionError: division by zero"),
        ("my_loader:make", "(1 / 0 for _ in range(2))", "failed: ZeroDivisionError: division by"),
    ],
)
def test_a_wrong_loader_is_an_error_that_says_what_it_must_be(
    spec, returned, message, tmp_path, monkeypatch
):
    write_loader(tmp_path, f"def make():\n    return {returned}\n", monkeypatch)
    with pytest.raises(StokerError, match=message):
        next(OwnLoader(spec).open())


@pytest.mark.parametrize("shape", ["2, 8", "4, 9", "32"])
def test_a_loader_whose_batches_are_another_load_is_refused(shape, tmp_path, monkeypatch):
    ids = f"torch.zeros({shape}, dtype=torch.int64)"
    text = f"def make():\n    return [dict.fromkeys(('input_ids', 'labels'), {ids})]\n"
    write_loader(tmp_path, text, monkeypatch)
    with pytest.raises(StokerError, match=r"everyone else \(4, 8\): choose --batch-size and"):
        OwnLoader("my_loader:make").try_first((4, 8))


def test_rows_shorter_than_the_others_are_no_other_load(tmp_path, monkeypatch):
    ids = "torch.zeros(4, 5, dtype=torch.int64)"
    text = f"def make():\n    return [dict.fromkeys(('input_ids', 'labels'), {ids})]\n"
    write_loader(tmp_path, text, monkeypatch)
    OwnLoader("my_loader:make").try_first((4, 8))


def test_a_generator_is_told_apart_from_a_loader_without_batches(tmp_path, monkeypatch):
    one = "{'input_ids': torch.zeros(1, 2, dtype=torch.int64), 'labels': torch.zeros(1, 2)}"
    write_loader(tmp_path, f"def make():\n    return ({one} for _ in range(3))\n", monkeypatch)
    batches = OwnLoader("my_loader:make").open()
    assert len(list(itertools.islice(batches, 3))) == 3
    with pytest.raises(StokerError, match=r"no generator \(after 3 batches\)"):
        next(batches)


def digest(batches, count: int = 12) -> list[bytes]:
    return [batch["input_ids"].numpy().tobytes() for batch in itertools.islice(batches, count)]


def contenders(made) -> dict[str, Contender]:
    lines = find_units(made.files[:1], 1)
    return {
        "stoker": Stoker(made.tokens, SEQ_LEN, ROWS),
        "inline": inline(made, 0),
        "inline, one unit": replace(inline(made, 0), units=lines[:1]),
        "padded": PaddedRows(lines, made.tokenizer, batch_size=ROWS, max_length=SEQ_LEN),
    }


@pytest.mark.parametrize("name", ["stoker", "inline", "inline, one unit", "padded"])
def test_each_seed_is_another_order_and_always_the_same_one(made, name):
    contender = contenders(made)[name]
    orders = {seed: digest(contender.open(seed)) for seed in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 3
    assert {seed: digest(contender.open(seed)) for seed in range(3)} == orders


def test_workers_have_the_order_of_their_seed_too(made):
    job = inline(made, 2)
    first, again, other = (digest(job.open(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_another_order_of_the_text_has_every_document_in_it(made):
    job = inline(made, 0)
    total = len(TokenDataset(made.tokens, SEQ_LEN)) // ROWS
    counts = [
        np.bincount(
            np.concatenate([b["input_ids"].numpy().ravel() for b in islice(job.open(seed), total)]),
            minlength=1000,
        )
        for seed in (0, 1)
    ]
    # But for what no longer fills a batch, which is other text in another order.
    assert np.abs(counts[0] - counts[1]).sum() <= 2 * ROWS * SEQ_LEN


def test_a_loader_of_ones_own_gets_the_seed_where_it_takes_one(tmp_path, monkeypatch):
    text = """
def make(seed=7):
    ids = torch.full((1, 2), seed)
    return [{"input_ids": ids, "labels": ids}]
"""
    write_loader(tmp_path, text, monkeypatch)
    own = OwnLoader("my_loader:make")
    assert [int(next(own.open(seed))["input_ids"][0, 0]) for seed in (0, 1)] == [0, 1]


def test_a_loader_says_which_batches_began_an_epoch(made, tmp_path, monkeypatch):
    stoker = Stoker(made.tokens, SEQ_LEN, 64)
    steps = len(TokenDataset(made.tokens, SEQ_LEN)) // 64
    assert len(list(islice(stoker.open(), 2 * steps + 1))) == 2 * steps + 1
    assert stoker.epochs() == (steps, 2 * steps)
    write_loader(
        tmp_path,
        "ids = torch.zeros(1, 2, dtype=torch.int64)\n"
        "def make():\n    return [{'input_ids': ids, 'labels': ids}] * 3\n",
        monkeypatch,
    )
    own = OwnLoader("my_loader:make")
    assert len(list(islice(own.open(), 7))) == 7
    assert own.epochs() == (3, 6)


@pytest.mark.parametrize("taken", [0, 5])
def test_stoker_goes_on_where_its_state_was_taken(made, taken):
    stoker = Stoker(made.tokens, SEQ_LEN, ROWS)
    batches = stoker.open(seed=3)
    list(islice(batches, taken))
    state, expected = stoker.state(), digest(batches, 5)
    assert digest(stoker.resume(state, seed=3), 5) == expected
