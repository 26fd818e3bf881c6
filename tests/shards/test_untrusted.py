"""Everything in a dataset is untrusted: what lies or is damaged is an error in words."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dataset import open_dataset
from shards.errors import DatasetError, StokerError
from shards.manifest import PLAN_KEY, read_manifest
from shards.store import open_store
from shards.tables import INDEX_COLUMNS, read_table, write_table
from shards.verify import verify
from tests.datasets import write_dataset


@pytest.fixture
def dataset(tmp_path):
    t = np.arange(40_000, dtype=np.uint16)
    write_dataset(
        str(tmp_path / "d"),
        [[t[:100], t[100:]], [t[:7]]],
        loss_masks=[(t % 2).astype(np.uint8), np.ones(7, np.uint8)],
    )
    return tmp_path / "d"


def edit(dataset: Path, change) -> None:
    path = dataset / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_index(dataset: Path, column: str, row: int, value: int) -> None:
    """An index that lies, with a manifest that vouches for it."""
    store = open_store(str(dataset))
    manifest = read_manifest(store)
    assert manifest is not None
    batch = read_table(store, manifest.tables.index)
    columns = {name: batch.column(name).to_pylist() for name in INDEX_COLUMNS}
    columns[column][row] = value
    info = write_table(
        store,
        "index",
        {name: pa.array(columns[name], INDEX_COLUMNS[name]) for name in INDEX_COLUMNS},
    )
    edit(dataset, lambda content: content["tables"].update(index=asdict(info)))


def test_a_folder_without_manifest_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no token dataset: there is no manifest.json"):
        open_dataset(str(tmp_path))


def test_a_mistyped_path_is_told_by_the_nearest_folder_there_is(tmp_path):
    wrong = tmp_path / "tokns" / "v1"
    with pytest.raises(DatasetError) as told:
        open_dataset(str(wrong))
    assert str(told.value) == (
        f"{wrong} holds no token dataset: nothing is there. The nearest folder that exists is "
        f"{tmp_path}: is the path right?"
    )


def test_only_where_a_job_was_begun_is_it_named(tmp_path):
    (tmp_path / PLAN_KEY).write_text("{}")
    with pytest.raises(DatasetError, match=r"plan\.json and no manifest\.json yet, .* it again"):
        open_dataset(str(tmp_path))


def test_a_newer_format_is_refused_by_its_number(dataset):
    edit(dataset, lambda content: content.update(version=2))
    with pytest.raises(DatasetError, match="format version 2, this version of Stoker reads 1"):
        open_dataset(str(dataset))


def test_rules_of_a_plan_that_is_none_are_refused(dataset):
    edit(dataset, lambda content: content.update(rules={"\x1b[2J": {"limit": 1}}))
    with pytest.raises(DatasetError, match="which is none of the plans"):
        open_dataset(str(dataset))


@pytest.mark.parametrize("name", ["/etc/passwd", "../index-0123456789abcdef.arrow", "index.arrow"])
def test_a_manifest_cannot_name_a_file_outside_the_dataset(dataset, name):
    edit(dataset, lambda content: content["tables"]["index"].update(name=name))
    with pytest.raises(DatasetError, match=r"tables\.index\.name"):
        open_dataset(str(dataset))


@pytest.mark.parametrize("plan", ["/tmp/0123456789abcdef", "../../0123456789abcdef", "..", ""])
def test_a_plan_cannot_lead_outside_the_dataset(dataset, plan):
    edit(dataset, lambda content: content.update(plans=[plan]))
    with pytest.raises(DatasetError, match="no plan id"):
        open_dataset(str(dataset))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("plan", 1, "names a plan"),
        ("split", 9, "names a split"),
        ("source", 1, "names a source"),
        ("tokens", 0, "has no tokens"),
        ("tokens_at", 1 << 40, "tokens beyond its file"),
        ("tokens", 1 << 40, "tokens beyond its file"),
        ("documents", 1 << 40, "document offsets beyond its file"),
        ("documents_at", 1 << 40, "document offsets beyond its file"),
        ("loss_mask_at", 1 << 40, "loss mask beyond its file"),
        ("tokens_at", (1 << 64) - 8, "column tokens_at holds"),
        ("tokens_at", 0, "inside the file's head"),
        ("bytes", 10, "beyond its file"),
        ("unit", 5, "row 1 is out of order"),
        ("documents", 1, "totals in manifest.json differ"),
    ],
)
def test_an_index_that_lies_is_refused_by_row(dataset, column, value, message):
    edit_index(dataset, column, 0, value)
    with pytest.raises(DatasetError, match=message):
        open_dataset(str(dataset))


def test_a_column_of_the_cells_beyond_their_file_is_refused(dataset):
    edit(dataset, lambda c: c["tables"]["cells"]["columns"].update(tokens_xxh3=1 << 40))
    with pytest.raises(DatasetError, match="beyond cells-"):
        open_dataset(str(dataset)).cells.read("tokens_xxh3", 0, 1)


def test_a_table_with_other_bytes_than_the_manifest_promises_is_refused(dataset):
    (index,) = dataset.glob("index-*.arrow")
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{index.name} is not the table"):
        open_dataset(str(dataset))


def test_an_unknown_word_in_the_manifest_is_refused(dataset):
    edit(dataset, lambda content: content.update(transform="os:system"))
    with pytest.raises(DatasetError, match="transform"):
        open_dataset(str(dataset))


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.integers(0, 9))
def test_verify_finds_any_flipped_bit_and_names_its_file(tmp_path_factory, place, bit, which):
    folder = tmp_path_factory.mktemp("v") / "d"
    t = np.arange(40_000, dtype=np.uint16)
    write_dataset(str(folder), [[t[:100], t[100:]], [t[:7]]])
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".arrow", ".json") and "receipts" not in path.parts
    )
    path = files[which % len(files)]
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    if path.name == "manifest.json":
        return  # its own words have no checksum: nothing refers to it
    with pytest.raises(StokerError, match=path.name):
        verify(str(folder))
    shutil.rmtree(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_verify_names_a_shard_that_was_cut_short(dataset, keep):
    path = sorted((dataset / "shards").rglob("*.arrow"))[0]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StokerError, match=rf"{path.name}: \d+ bytes, \d+ were written"):
        verify(str(dataset))


def test_verify_names_a_shard_that_is_missing(dataset):
    path = sorted((dataset / "shards").rglob("*.arrow"))[1]
    path.unlink()
    with pytest.raises(StokerError, match=f"{path.name}: missing"):
        verify(str(dataset))


def test_verify_finds_cells_that_belong_to_other_tokens(dataset):
    store = open_store(str(dataset))
    manifest = read_manifest(store)
    assert manifest is not None
    batch = read_table(store, manifest.tables.cells)
    columns = {name: batch.column(name).to_numpy().copy() for name in batch.schema.names}
    columns["first_document"][1] += 1
    info = write_table(store, "cells", {k: pa.array(v) for k, v in columns.items()})
    tables = manifest.tables.model_copy(update={"cells": replace(info)})
    store.write("manifest.json", manifest.model_copy(update={"tables": tables}).to_json())
    with pytest.raises(StokerError, match="other values of first_document"):
        verify(str(dataset))
