"""However receipts came, they make the same dataset, and memory does not grow with their cells."""

from __future__ import annotations

import os
import random
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.commit import InputFile, commit, write_tables
from shards.errors import DatasetError, StoreError
from shards.format import Cells, shard_path
from shards.ledger import FOLDED_TOGETHER, Ledger, ListedShards, fold
from shards.receipt import Counts, Receipt, ShardRecord, receipt_key, to_batch, write_receipt
from shards.store import LocalStore, open_store
from shards.tables import read_table
from tests.datasets import PLAN, description
from tests.servers import S3Server

INPUTS = [InputFile("in", 1, "etag", "default")]
STEP = 32_768  # tokens of uint16 in a cell


def receipt(unit: int, *cells: int, masked: bool = False, quarantined: int = 0) -> Receipt:
    """A unit with a shard for each number of cells; no shard file lies anywhere."""
    shards = []
    for part, count in enumerate(cells):
        numbers = np.random.default_rng([unit, part]).integers(0, 1 << 63, (4, count), np.uint64)
        shards.append(
            ShardRecord(
                plan=PLAN,
                unit=unit,
                part=part,
                split="train" if unit % 3 else "validation",
                source="web" if unit % 2 else "code",
                bytes=1 << 30,
                tokens=count * STEP - unit % 7,
                documents=count,
                tokens_at=64,
                documents_at=1 << 20,
                loss_mask_at=1 << 21 if masked else 0,
                xxh3=int(numbers[0, 0]) * 2 + 1,
                cells=Cells(numbers[0], numbers[1], numbers[2], numbers[3] if masked else None),
            )
        )
    documents, tokens = sum(s.documents for s in shards), sum(s.tokens for s in shards)
    counts = Counts(
        rows=documents + quarantined, documents=documents, tokens=tokens, quarantined=quarantined
    )
    return Receipt(unit, counts, tuple(shards))


def tables_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def committed(receipts: list[Receipt], folder: Path) -> dict[str, bytes]:
    """The files of a commit of these receipts in the plain way: all at once, from memory."""
    store = open_store(str(folder))
    commit(store, description("uint16"), receipts, INPUTS)
    return tables_of(folder)


# --- however they came -------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    shape=st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=12),
    masked=st.booleans(),
    order=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_any_split_into_parts_and_any_order_and_any_duplicates_make_the_same_manifest(
    shape: list[list[int]], masked: bool, order: random.Random, data: st.DataObject
) -> None:
    receipts = [receipt(n, *cells, masked=masked) for n, cells in enumerate([*shape, [2]])]
    with TemporaryDirectory() as name:
        expected = committed(receipts, Path(name, "plain"))
        store = open_store(str(Path(name, "other")))
        came = [*receipts, *data.draw(st.lists(st.sampled_from(receipts), max_size=5))]
        order.shuffle(came)
        # Some lie on the store in parts, some alone, the rest comes while the job runs.
        borders = sorted(data.draw(st.lists(st.integers(0, len(came)), max_size=5)))
        for start, stop in zip([0, *borders], borders, strict=False):
            group = came[start:stop]
            if data.draw(st.booleans()) and group:
                fold(store, PLAN, to_batch(group))
            else:
                for one in group:
                    write_receipt(store, PLAN, one)
        ledger = Ledger.read(store, PLAN)
        for one in came[borders[-1] if borders else 0 :]:
            ledger.add(one)
        commit(store, description("uint16"), ledger, INPUTS)
        assert ledger.units == set(range(len(receipts)))
        assert tables_of(Path(name, "other")) == expected


def test_a_unit_in_two_parts_and_alone_counts_once(tmp_path: Path) -> None:
    receipts = [receipt(n, 1 + n, quarantined=1) for n in range(5)]
    store = LocalStore(str(tmp_path / "out"))
    for group in (receipts[:3], receipts[1:4], [receipts[3], receipts[4], receipts[3]]):
        fold(store, PLAN, to_batch(group))
    write_receipt(store, PLAN, receipts[2])
    ledger = Ledger.read(store, PLAN)
    assert (ledger.counts.quarantined, sorted(ledger.quarantined)) == (5, [0, 1, 2, 3, 4])
    commit(store, description("uint16"), ledger, INPUTS)
    assert tables_of(tmp_path / "out") == committed(receipts, tmp_path / "plain")


def test_a_running_job_folds_its_receipts_and_a_restart_reads_few_objects(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    receipts = [receipt(n, 1 + n % 3) for n in range(FOLDED_TOGETHER + 10)]
    random.Random(0).shuffle(receipts)
    ledger = Ledger(store, PLAN)
    for one in receipts:
        write_receipt(store, PLAN, one)
        ledger.add(one)
    assert len(list(store.list("receipts/"))) == 1 + 10
    commit(store, description("uint16"), ledger, INPUTS)
    assert tables_of(tmp_path / "out") == committed(receipts, tmp_path / "plain")
    again = Ledger.read(store, PLAN)
    assert (again.units, again.counts) == (ledger.units, ledger.counts)


def test_receipts_with_many_cells_are_folded_before_there_are_many(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    ledger = Ledger(store, PLAN)
    for unit in range(4):
        ledger.add(receipt(unit, 1_000_000))  # 24 MB of cells
    assert len(list(store.list("receipts/"))) == 2


def test_a_receipt_that_was_folded_and_not_deleted_is_deleted_by_the_next_run(
    tmp_path: Path,
) -> None:
    store = LocalStore(str(tmp_path))
    fold(store, PLAN, to_batch([receipt(n, 1) for n in range(3)]))
    write_receipt(store, PLAN, receipt(1, 1))
    assert Ledger.read(store, PLAN).units == {0, 1, 2}
    assert not store.exists(receipt_key(PLAN, 1))


def test_units_with_rows_set_apart_are_known_after_a_restart(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    fold(store, PLAN, to_batch([receipt(0, 1), receipt(1, 1, quarantined=2), receipt(2)]))
    write_receipt(store, PLAN, receipt(3, quarantined=1))
    ledger = Ledger.read(store, PLAN)
    assert (ledger.quarantined, ledger.counts.quarantined) == ([1, 3], 3)


# --- what is not to be trusted -----------------------------------------------------------------


def test_a_unit_whose_shard_is_gone_or_cut_short_is_not_done(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    fold(store, PLAN, to_batch([receipt(n, 2, 1) for n in range(5)]))
    write_receipt(store, PLAN, receipt(5, 2, 1))
    for unit in range(6):
        for shard in receipt(unit, 2, 1).shards:
            path = tmp_path / shard.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.truncate(path, shard.bytes)
    (tmp_path / receipt(1, 2, 1).shards[1].path).unlink()
    os.truncate(tmp_path / receipt(3, 2, 1).shards[0].path, 7)
    (tmp_path / receipt(5, 2, 1).shards[0].path).unlink()
    (tmp_path / "shards" / PLAN / "notes.txt").touch()
    ledger = Ledger.read(store, PLAN, ListedShards.of(store, PLAN, 10))
    assert ledger.units == {0, 2, 4}
    for unit in (5, 3, 1):
        ledger.add(receipt(unit, 2, 1))
    commit(store, description("uint16"), ledger, INPUTS)
    expected = committed([receipt(n, 2, 1) for n in range(6)], tmp_path / "plain")
    assert tables_of(tmp_path) == expected


def test_nothing_is_done_where_no_shard_lies(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    fold(store, PLAN, to_batch([receipt(0, 1), receipt(1)]))
    assert Ledger.read(store, PLAN, ListedShards.of(store, PLAN, 10)).units == {1}


def broken(one: Receipt, **changes: object) -> Receipt:
    return replace(one, shards=(replace(one.shards[0], **changes),))  # type: ignore[arg-type]


UNEVEN = Cells(np.ones(3, np.uint64), np.ones(3, np.uint64), np.ones(2, np.uint64), None)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(broken(receipt(0, 3), plan="f" * 16), id="another plan's"),
        pytest.param(broken(receipt(0, 3), unit=1), id="another unit's"),
        pytest.param(broken(receipt(0, 3), tokens=(1 << 64) - 1), id="beyond int64"),
        pytest.param(broken(receipt(0, 3), cells=UNEVEN), id="columns of cells differ"),
        pytest.param(broken(receipt(0, 3), loss_mask_at=9), id="a mask without checksums"),
    ],
)
def test_a_receipt_that_contradicts_itself_is_none(wrong: Receipt, tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    write_receipt(store, PLAN, wrong)
    write_receipt(store, PLAN, receipt(7, 1))
    assert Ledger.read(store, PLAN).units == {7}


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_part_with_a_flipped_bit_or_cut_short_is_none(place: float, bit: int, cut: bool) -> None:
    with TemporaryDirectory() as name:
        store = LocalStore(name)
        key = fold(store, PLAN, to_batch([receipt(0, 2), receipt(1, 1)]))
        data = bytearray(store.read(key))
        data[int(place * len(data))] ^= 1 << bit
        store.write(key, data[: int(place * len(data))] if cut else data)
        assert not Ledger.read(store, PLAN).units


def test_a_receipt_with_fewer_cells_than_tokens_need_stops_the_commit(tmp_path: Path) -> None:
    short = receipt(0, 3)
    wrong = replace(short.shards[0], tokens=short.shards[0].tokens + 2 * STEP)
    counts = replace(short.counts, tokens=wrong.tokens)
    with pytest.raises(DatasetError, match="unit 0 has too few cells"):
        committed([Receipt(0, counts, (wrong,))], tmp_path)


def test_a_part_that_changes_before_the_commit_stops_it(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    key = fold(store, PLAN, to_batch([receipt(0, 1)]))
    ledger = Ledger.read(store, PLAN)
    store.write(key, store.read(key)[:-1] + b"x")
    with pytest.raises(DatasetError, match=f"{key} changed while"):
        commit(store, description("uint16"), ledger, INPUTS)


def test_the_same_commit_on_s3_and_on_disk(tmp_path: Path, s3: S3Server) -> None:
    receipts = [receipt(n, 1 + n % 4) for n in range(600)]
    store = open_store(s3.bucket("ledger") + "/out")
    ledger = Ledger(store, PLAN)
    for one in receipts:
        ledger.add(one)
    manifest = commit(store, description("uint16"), ledger, INPUTS)
    names = {e.key for e in store.list() if not e.key.startswith("receipts/")}
    assert {name: store.read(name) for name in names} == committed(receipts, tmp_path / "plain")
    assert len(list(store.list("receipts/"))) == 2
    assert read_table(store, manifest.tables.cells).num_rows == sum(1 + n % 4 for n in range(600))


def test_a_long_listing_in_parts_finds_what_a_short_one_finds(tmp_path: Path, s3: S3Server) -> None:
    unit = np.array([0, 9_999, 10_000, 25_000, 30_000, 120_000, 120_001])
    part = np.array([0, 1, 0, 1_000, 0, 0, 0])
    size = np.array([3, 4, 5, 6, 7, 8, 9])
    for store in (LocalStore(str(tmp_path)), open_store(s3.bucket("listing") + "/out")):
        for u, p, n in zip(unit[:-1].tolist(), part.tolist(), size.tolist(), strict=False):
            store.write(shard_path(PLAN, u, p), b"x" * n)
            store.write(shard_path("f" * 16, u, p), b"x" * 99)
        whole = ListedShards.of(store, PLAN, 20_000)
        for units in (120_001, 10**6):
            listed = ListedShards.of(store, PLAN, units)
            assert listed.names.tolist() == whole.names.tolist()
            assert listed.hold(unit, part, size).tolist() == [True] * 6 + [False]
        assert not listed.hold(unit, part, size + 1).any()


# --- memory ------------------------------------------------------------------------------------


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """[bytes]: the most that Python, numpy and Arrow held at once inside the block, together."""
    before, peak = pa.default_memory_pool(), [0]
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield peak
        peak[0] = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def write_parts(store: LocalStore, units: int, cells: int) -> None:
    one = receipt(1, cells)
    for start in range(0, units, FOLDED_TOGETHER):
        numbers = range(start, min(start + FOLDED_TOGETHER, units))
        shard = one.shards[0]
        receipts = [replace(one, unit=n, shards=(replace(shard, unit=n),)) for n in numbers]
        fold(store, PLAN, to_batch(receipts))


def test_memory_of_a_commit_does_not_grow_with_the_cells(tmp_path: Path) -> None:
    units, peaks, tables = 20_000, [], []
    for cells in (1, 200):
        store = LocalStore(str(tmp_path / str(cells)))
        write_parts(store, units, cells)
        with peak_memory() as peak:
            ledger = Ledger.read(store, PLAN)
            manifest = write_tables(store, description("uint16"), ledger, INPUTS)
        assert manifest.tables.cells.rows == units * cells
        peaks.append(peak[0])
        tables.append(manifest.tables.cells.bytes)
    assert tables[1] > 90 << 20
    assert peaks[1] - peaks[0] < 20 << 20, peaks
    assert peaks[0] < units * 2_000, peaks


def test_a_disk_without_room_for_the_cells_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"takes 120 bytes .* 100 are free"):
        committed([receipt(0, 3), receipt(1, 2)], tmp_path)
    assert not (tmp_path / "manifest.json").exists()
