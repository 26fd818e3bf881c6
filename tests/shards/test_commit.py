"""Receipts survive a restart, and the same receipts commit to the same bytes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.commit import InputFile, commit
from shards.errors import DatasetError
from shards.ledger import Ledger, fold
from shards.manifest import DocumentRules, read_manifest
from shards.receipt import Counts, Receipt, ShardRecord, to_batch, write_receipt
from shards.store import LocalStore, open_store
from shards.verify import verify
from shards.words import row_lines
from tests.datasets import PLAN, description

INPUT = [InputFile("in", 1, "etag", "default")]


def unit(store, number: int, documents: int = 3) -> Receipt:
    offsets = np.arange(documents + 1, dtype=np.int64) * 10
    tokens = np.arange(documents * 10, dtype=np.uint16) + number
    from shards.writer import build_shard

    built = build_shard(offsets, tokens)
    record = ShardRecord.of(PLAN, number, 0, built)
    store.write(record.path, built.data)
    return Receipt(
        number, Counts(rows=documents, documents=documents, tokens=len(tokens)), (record,)
    )


def test_receipts_are_read_back_alone_and_folded(tmp_path):
    store = LocalStore(str(tmp_path))
    receipts = [unit(store, number) for number in range(4)]
    receipts.append(Receipt(4, Counts(rows=2, quarantined=2), ()))
    for receipt in receipts:
        write_receipt(store, PLAN, receipt)
    fold(store, PLAN, to_batch(receipts[:3]))
    names = sorted(path.name for path in (tmp_path / "receipts" / PLAN).iterdir())
    assert names[:2] == ["00000003.arrow", "00000004.arrow"]
    assert len(names) == 3
    found = Ledger.read(store, PLAN)
    assert found.units == {0, 1, 2, 3, 4}
    assert found.quarantined == [4]
    whole = commit(store, description("uint16"), receipts, INPUT)
    assert commit(store, description("uint16"), found, INPUT) == whole


def test_a_broken_receipt_is_no_receipt(tmp_path):
    store = LocalStore(str(tmp_path))
    write_receipt(store, PLAN, unit(store, 0))
    write_receipt(store, PLAN, unit(store, 1))
    path = tmp_path / "receipts" / PLAN / "00000000.arrow"
    path.write_bytes(path.read_bytes()[:100])
    assert Ledger.read(store, PLAN).units == {1}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_receipts_in_any_order_commit_to_the_same_bytes(tmp_path):
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        store = open_store(str(tmp_path / name))
        commit(store, description("uint16"), [unit(store, number) for number in order], INPUT)
        verify(str(tmp_path / name))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_rows_that_went_missing_stop_the_commit(tmp_path):
    store = open_store(str(tmp_path))
    good = unit(store, 0)
    with pytest.raises(DatasetError, match="rows are missing"):
        commit(
            store,
            description("uint16"),
            [Receipt(0, Counts(rows=4, documents=3), good.shards)],
            INPUT,
        )
    with pytest.raises(DatasetError, match="receipts say"):
        commit(
            store,
            description("uint16"),
            [Receipt(0, Counts(rows=3, documents=3, tokens=29), good.shards)],
            INPUT,
        )
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 4},
        {"rows": 4, "dropped": 1},
        {"rows": 5, "transform_in": 5, "transform_out": 4},
        {"rows": 3, "transform_in": 1},
    ],
)
def test_dropped_rows_need_a_reason_and_transformed_ones_a_trace(wrong, tmp_path):
    store = open_store(str(tmp_path))
    good = unit(store, 0)
    counts = Counts(documents=3, tokens=30, **wrong)
    with pytest.raises(DatasetError, match="rows are missing"):
        commit(store, description("uint16"), [Receipt(0, counts, good.shards)], INPUT)


def test_rules_and_reasons_are_kept_in_the_manifest_and_unused_ones_leave_no_trace(tmp_path):
    store = open_store(str(tmp_path))
    receipt = unit(store, 0)
    rules = {PLAN: DocumentRules(min_tokens=3, validation=0.5, columns={"id": "int64"})}
    counts = Counts(
        rows=9,
        documents=3,
        tokens=30,
        dropped=3,
        dropped_short=2,
        dropped_empty=1,
        transform_in=9,
        transform_out=6,
    )
    about = description("uint16")
    manifest = commit(
        store, replace(about, rules=rules), [Receipt(0, counts, receipt.shards)], INPUT
    )
    assert read_manifest(store) == manifest
    assert (manifest.rules, manifest.counts) == (rules, counts)
    assert list(row_lines(counts, rules.values())) == [
        "9 read - 9 into the transform + 6 out of it = 3 documents + 3 dropped + 0 quarantined",
        "dropped 3: 2 shorter than 3 tokens, 1 without a token",
    ]
    plain = commit(store, about, [receipt], INPUT).to_json().decode()
    assert not re.search("rules|dropped_|transform|begin_token", plain)


def test_an_input_without_any_document_makes_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no document at all"):
        commit(open_store(str(tmp_path)), description("uint16"), [Receipt(0, Counts(), ())], INPUT)
