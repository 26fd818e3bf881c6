"""The sink: any Ray Dataset becomes a token dataset, or nothing becomes visible."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasink import TokenDatasink
from pipelines.encode import ReferenceEngine
from shards.dataset import open_dataset
from shards.gc import collect_garbage
from shards.store import open_store
from shards.verify import verify
from tests.pipelines.texts import documents
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer
from tests.servers import S3Server

pytestmark = pytest.mark.usefixtures("local_ray")

HAND = blob(pair_tokenizer(merged="Ġabcde"))
TEXTS = [f"abc {n} {'cab ' * (n % 30)}<|end|>" for n in range(400)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(HAND)
    return str(path)


@pytest.fixture
def sink(tokenizer: str, tmp_path: Path) -> Callable[..., TokenDatasink]:
    def make(uri: str = str(tmp_path / "out"), **options: Any) -> TokenDatasink:
        return TokenDatasink(uri, **{"tokenizer": tokenizer, "end_token": "<|end|>", **options})

    return make


def rows(texts: list[str | None], blocks: int = 4) -> Any:
    import ray.data

    size = -(-len(texts) // blocks)
    tables = [pa.table({"text": texts[i : i + size]}) for i in range(0, len(texts), size)]
    return ray.data.from_arrow(tables)


def documents_in(uri: str | Path) -> Counter[tuple[int, ...]]:
    dataset = open_dataset(str(uri))
    found: Counter[tuple[int, ...]] = Counter()
    for shard in range(len(dataset.index)):
        data = dataset.store.read(dataset.path(shard))
        found.update(map(tuple, pa.ipc.open_file(data).read_all()["input_ids"].to_pylist()))
    return found


def expected(texts: list[str]) -> Counter[tuple[int, ...]]:
    offsets, ids = ReferenceEngine(HAND, "text").encode(documents(*texts))
    end = pair_tokenizer(merged="Ġabcde")["added_tokens"][0]["id"]
    parts = [ids[a:b].tolist() for a, b in pairwise(offsets)]
    return Counter((*part, end) for part in parts)


def test_a_dataset_of_ray_becomes_a_token_dataset_that_verifies(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    writing = sink(source="mine", shard_bytes=4_000)
    rows(list(TEXTS)).write_datasink(writing)
    out = tmp_path / "out"
    assert documents_in(out) == expected(TEXTS)
    verify(str(out))
    manifest = open_dataset(str(out)).manifest
    assert manifest == writing.manifest
    assert manifest.sources == ("mine",)
    assert manifest.counts.documents == manifest.counts.special_documents == len(TEXTS)
    assert manifest.counts.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert manifest.engine == "gigatoken"
    assert len(open_dataset(str(out)).index) > 4
    assert not (out / "lease.json").exists()


def test_the_loader_reads_what_the_sink_wrote(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    from loaders import DataLoader, TokenDataset

    rows(list(TEXTS)).write_datasink(sink())
    data = TokenDataset(str(tmp_path / "out"), seq_len=64)
    batches = list(DataLoader(data, batch_size=2))
    assert sum(len(batch["input_ids"]) for batch in batches) == len(data) > 20


def test_s3_is_written_as_files_are(sink: Callable[..., TokenDatasink], s3: S3Server) -> None:
    uri = f"{s3.bucket('pipelines-sink')}/tokens"
    rows(list(TEXTS)).write_datasink(sink(uri))
    assert documents_in(uri) == expected(TEXTS)
    verify(uri)


def test_a_row_without_text_fails_the_write_and_leaves_no_dataset(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="null instead of text"):
        rows([*TEXTS, None]).write_datasink(sink())
    assert not (tmp_path / "out" / "manifest.json").exists()
    rows(list(TEXTS)).write_datasink(sink())
    left = collect_garbage(str(tmp_path / "out"), delete=True)
    assert left.files["shards"] > 0
    assert not left.kept_files, "nobody can go on with what failed"
    assert documents_in(tmp_path / "out") == expected(TEXTS)


def test_a_dataset_that_is_there_stays_unless_overwriting(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    rows(["abc"], 1).write_datasink(sink())
    old = {f: f.read_bytes() for f in (tmp_path / "out").glob("shards/*/*")}
    with pytest.raises(Exception, match="holds a dataset"):
        rows(["dead"], 1).write_datasink(sink())
    assert documents_in(tmp_path / "out") == expected(["abc"])
    rows(["dead"], 1).write_datasink(sink(overwrite=True))
    assert documents_in(tmp_path / "out") == expected(["dead"])
    assert all(f.read_bytes() == data for f, data in old.items()), "readers of the old one go on"


def test_a_task_that_runs_twice_writes_the_same_bytes_to_the_same_names(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    writing = sink(shard_bytes=4_000)
    context = SimpleNamespace(task_idx=3)
    blocks = [pa.table({"text": TEXTS[:50]}), pa.table({"text": TEXTS[50:]})]
    receipt = writing.write(blocks, context)
    store = open_store(str(tmp_path / "out"))
    first = {entry.key: store.read(entry.key) for entry in store.list("shards/")}
    again = writing.write(blocks, context)
    assert {entry.key: store.read(entry.key) for entry in store.list("shards/")} == first
    assert {shard.path for shard in again.shards} == set(first)
    assert receipt.counts == again.counts
    assert all(shard.unit == 3 for shard in receipt.shards)


@pytest.mark.slow
def test_a_worker_killed_in_a_write_loses_and_doubles_no_document(
    sink: Callable[..., TokenDatasink], tmp_path: Path
) -> None:
    """Ray runs the whole task again, so what it had written is written over."""
    marker, out = tmp_path / "killed", tmp_path / "out"
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=100)

    def die_once(batch: pa.Table) -> pa.Table:
        if TEXTS[350] in batch["text"].to_pylist() and not marker.exists():
            marker.touch()
            os._exit(1)
        return batch

    import ray.data

    ds = ray.data.read_parquet(str(tmp_path / "a.parquet"))
    dying = ds.map_batches(die_once, batch_format="pyarrow", batch_size=50)
    dying.write_datasink(sink(shard_bytes=2_000))
    assert marker.exists()
    assert documents_in(out) == expected(TEXTS)
    verify(str(out))
