"""A dataset that is continued: the old token stream is the beginning of the new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.commit import InputFile, commit, publish, write_tables
from shards.dataset import Dataset, open_dataset
from shards.errors import DatasetError
from shards.ledger import Ledger
from shards.manifest import Manifest, read_manifest
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import open_store
from shards.tables import read_table
from shards.verify import verify
from shards.writer import build_shard
from tests.datasets import description
from tests.servers import S3Server
from tests.shards.test_dataset import read, read_mask

# Not in order of their names: the order is that of the commits.
PLANS = ("b" * 16, "a" * 16, "c" * 16, "9" * 16)


def receipts_of(
    uri: str, generation: int, units: Sequence[tuple[int, str, str]], masked: bool = False
) -> list[Receipt]:
    """Writes a shard for each (tokens, split, source); tokens rise over all units."""
    store, receipts, first = open_store(uri), [], generation * 10_000
    for unit, (count, split, source) in enumerate(units):
        tokens = np.arange(first, first + count, dtype=np.uint32)
        mask = (tokens % 3).astype(np.uint8) if masked else None
        built = build_shard(np.array([0, count], np.int64), tokens, loss_mask=mask)
        plan = PLANS[generation]
        record = ShardRecord.of(plan, unit, 0, built, split=split, source=source)
        store.write(record.path, memoryview(built.data))
        receipts.append(Receipt(unit, Counts(rows=1, documents=1, tokens=count), (record,)))
        first += count
    return receipts


def grow(uri: str, generation: int, units: Any, masked: bool = False, **changes: Any) -> Manifest:
    """Commits one generation more."""
    after = open_dataset(uri) if generation else None
    inputs = [InputFile(f"in{generation}", generation, "etag", "web")]
    receipts = receipts_of(uri, generation, units, masked)
    about = description("uint32")
    about = type(about)(**{**about.__dict__, **changes})
    return commit(open_store(uri), about, receipts, inputs, after=after)


def streams(dataset: Dataset) -> dict[tuple[str, str | None], list[int]]:
    """All tokens by split and source, read and verified as a loader does."""
    found = {}
    for split, sources in dataset.manifest.totals.items():
        for source in (None, *sources):
            stream = dataset.stream(split, source)
            found[split, source] = read(stream, 0, stream.tokens).tolist()
    return found


shapes = st.lists(
    st.tuples(
        st.sampled_from([1, 5, 16_384, 16_385, 40_000]),
        st.sampled_from(["train", "validation"]),
        st.sampled_from(["web", "code", "books"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=12)
@given(generations=st.lists(shapes, min_size=2, max_size=4), masked=st.booleans())
def test_every_stream_begins_with_the_one_of_the_generation_before(
    generations: list[Any], masked: bool
) -> None:
    with TemporaryDirectory() as uri:
        before: dict[tuple[str, str | None], list[int]] = {}
        opened: list[tuple[Dataset, Any]] = []
        for number, units in enumerate(generations):
            manifest = grow(uri, number, units, masked)
            now = streams(open_dataset(uri))
            assert all(now[key][: len(tokens)] == tokens for key, tokens in before.items())
            assert manifest.plans == PLANS[: number + 1]
            opened.append((open_dataset(uri), now))
            before = now
        assert manifest.tokens == sum(n for units in generations for n, _, _ in units)
        assert manifest.counts.tokens == manifest.tokens
        assert manifest.counts.documents == sum(map(len, generations))
        if masked:
            stream = open_dataset(uri).stream(manifest.splits[0])
            expected = np.array(now[manifest.splits[0], None]) % 3
            assert read_mask(stream, 0, stream.tokens).tolist() == expected.tolist()
        verify(uri)
        # Whoever opened an earlier generation reads it on.
        assert all(streams(dataset) == content for dataset, content in opened)


def test_inputs_of_every_generation_are_kept_in_order(tmp_path: Path) -> None:
    for number in range(3):
        manifest = grow(str(tmp_path), number, [(10, "train", "web")])
    table = read_table(open_store(str(tmp_path)), manifest.tables.inputs)
    assert table.column("uri").to_pylist() == ["in0", "in1", "in2"]
    assert table.column("size").to_pylist() == [0, 1, 2]


def test_engines_and_library_versions_of_every_generation_are_named_once(tmp_path: Path) -> None:
    engines = [("fast", "1"), ("slow", "1"), ("fast", "2")]
    for number, (engine, version) in enumerate(engines):
        libraries = {"pyarrow": version, "later": "7"} if number else {"pyarrow": version}
        manifest = grow(
            str(tmp_path), number, [(10, "train", "web")], engine=engine, libraries=libraries
        )
    assert manifest.engine == "fast; slow"
    assert manifest.libraries == {"later": "7", "pyarrow": "1; 2"}


def test_a_generation_without_a_document_changes_no_stream(tmp_path: Path) -> None:
    uri = str(tmp_path)
    grow(uri, 0, [(10, "train", "web")], masked=True)
    before = streams(open_dataset(uri))
    store, empty = open_store(uri), [InputFile("empty", 0, "x", "web")]
    nothing = Ledger(store, PLANS[1])
    manifest = commit(store, description("uint32"), nothing, empty, after=open_dataset(uri))
    assert streams(open_dataset(uri)) == before
    assert manifest.tables.inputs.rows == 2
    verify(uri)


def test_a_loss_mask_in_only_one_generation_is_refused(tmp_path: Path) -> None:
    grow(str(tmp_path), 0, [(10, "train", "web")], masked=True)
    with pytest.raises(DatasetError, match=r"only one .* has a loss mask"):
        grow(str(tmp_path), 1, [(10, "train", "web")])


def test_damaged_cells_are_not_continued(tmp_path: Path) -> None:
    grow(str(tmp_path), 0, [(40_000, "train", "web")])
    [path] = tmp_path.glob("cells-*")
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{path.name} is not the table"):
        grow(str(tmp_path), 1, [(10, "train", "web")])
    assert read_manifest(open_store(str(tmp_path))).plans == PLANS[:1]  # type: ignore[union-attr]


def test_cells_of_many_megabytes_are_continued_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.commit._COPIED_BYTES", 100)
    for number in range(3):
        grow(str(tmp_path), number, [(100_000, "train", "web"), (50_000, "train", "code")], True)
    verify(str(tmp_path))


def test_a_generation_is_added_on_s3_as_on_disk(tmp_path: Path, s3: S3Server) -> None:
    uris = s3.bucket("generations") + "/out", str(tmp_path)
    for uri in uris:
        for number in range(2):
            grow(uri, number, [(40_000, "train", "web"), (7, "train", "code")])
        verify(uri)
    assert open_dataset(uris[0]).id == open_dataset(uris[1]).id


def test_a_commit_over_one_that_came_in_between_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path)
    store = open_store(uri)
    held = grow(uri, 0, [(10, "train", "web")])
    receipts = receipts_of(uri, 1, [(20, "train", "web")])
    mine = write_tables(store, description("uint32"), receipts, [], after=open_dataset(uri))
    other = grow(uri, 2, [(5, "train", "web")])
    with pytest.raises(DatasetError, match=f"changed while this job ran.*{PLANS[2]}"):
        publish(store, mine, instead_of=held)
    assert read_manifest(store) == other
    publish(store, mine, instead_of=other)
    publish(store, mine, instead_of=held)  # what was to be committed lies there already
    assert read_manifest(store) == mine
