"""The whole job, on a real Ray: exact ids, the same bytes however it comes about, clear words."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines import job
from pipelines.inputs import find_inputs
from pipelines.job import run
from pipelines.options import Options
from pipelines.summary import Summary
from shards.dataset import open_dataset
from shards.errors import StokerError
from shards.store import open_store
from shards.verify import verify
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer
from tests.servers import S3Server

pytestmark = pytest.mark.usefixtures("local_ray")

TEXTS = [f"document {i}: {'word ' * (i * 7 % 40)}\n<|end|> é😀 \u2028" for i in range(600)]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    return str(path)


@pytest.fixture
def tokenize(tokenizer: str, tmp_path: Path) -> Callable[..., Summary]:
    """Runs the job with a tokenizer by hand; what a test doesn't name is chosen here."""

    def start(
        *inputs: str | Path, output: str | Path = tmp_path / "out", **options: Any
    ) -> Summary:
        options = {"tokenizer": tokenizer, "end_token": "<|end|>", **options}
        return run(Options(inputs=tuple(map(str, inputs)), output=str(output), **options))

    return start


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def documents_of(uri: str | Path, source: str | None = None) -> list[list[int]]:
    """Ids of each document, read as plain Arrow files in the order of the stream."""
    dataset = open_dataset(str(uri))
    chosen = dataset.stream(source=source).shards.tolist()
    found: list[list[int]] = []
    for shard in chosen:
        data = dataset.store.read(dataset.path(shard))
        found.extend(pa.ipc.open_file(data).read_all()["input_ids"].to_pylist())
    return found


def files_of(uri: str | Path, *, but: tuple[str, ...] = ("logs/", "receipts/")) -> dict[str, bytes]:
    """Content by key of everything in a dataset that must not depend on how it came about."""
    store = open_store(str(uri))
    return {e.key: store.read(e.key) for e in store.list() if not e.key.startswith(but)}


# --- exact -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("llama-3", "text"),
        ("gpt2", "control"),
        pytest.param("llama-3", "control", marks=pytest.mark.slow),
        pytest.param("gpt2", "text", marks=pytest.mark.slow),
    ],
)
def test_ids_of_every_document_equal_transformers_and_end_with_the_end_token(
    name: str, mode: str, shared: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = str(shared / "data" / "tokenizers" / name)
    reference = AutoTokenizer.from_pretrained(folder)
    special = tmp_path / "special.jsonl"
    texts = [f"a{reference.eos_token}b", reference.eos_token, "x <|eot_id|>", "", "é\u2028"]
    write_jsonl(special, texts)
    files = sorted((shared / "data" / "wikitext-2").glob("*.parquet"))
    for file in files:
        texts.extend(pq.read_table(file)["text"].to_pylist())

    summary = run(
        Options(
            inputs=(f"a={special}", *(f"b={file}" for file in files)),
            output=str(tmp_path / "out"),
            tokenizer=folder,
            special_tokens=mode,
            unit_bytes=150_000,
        )
    )

    expected = reference(texts, add_special_tokens=False, split_special_tokens=mode == "text")
    end = reference.eos_token_id
    assert documents_of(tmp_path / "out") == [[*ids, end] for ids in expected["input_ids"]]
    assert summary.engine == "gigatoken"
    assert summary.units > 4
    assert summary.counts.documents == len(texts)
    assert summary.counts.special_documents == (3 if name == "llama-3" else 2)
    assert open_dataset(str(tmp_path / "out")).dtype == ("uint16" if name == "gpt2" else "uint32")
    verify(str(tmp_path / "out"))


def test_the_reference_engine_gives_the_same_ids(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*TEXTS, "a\u088fb"])
    tokenize(path, output=tmp_path / "fast")
    slow = tokenize(path, output=tmp_path / "slow", engine="tokenizers")
    assert documents_of(tmp_path / "fast") == documents_of(tmp_path / "slow")
    assert slow.engine == "tokenizers"


# --- the same bytes ----------------------------------------------------------------------------


def test_a_second_run_changes_no_byte_and_needs_no_ray(
    tokenize: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    first = tokenize(path)
    before = files_of(tmp_path / "out", but=())
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*")}

    def no_ray() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(job, "ray_cluster", no_ray)
    again = tokenize(path)
    assert again.nothing_to_do
    assert "nothing to do" in str(again)
    assert again.counts == first.counts
    assert (again.engine, again.reason) == (first.engine, first.reason)
    assert files_of(tmp_path / "out", but=()) == before
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*")} == stamps


@pytest.mark.parametrize("lost", ["receipt", "shard", "cut shard", "manifest", "all receipts"])
def test_a_restart_does_what_is_missing_and_nothing_else(
    lost: str, tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    whole = tokenize(path, unit_bytes=9_000)
    out = tmp_path / "out"
    before = files_of(out)
    shard = sorted(out.glob("shards/*/*.arrow"))[3]
    kept = sorted(out.glob("shards/*/*.arrow"))[4]
    stamp = kept.stat().st_mtime_ns
    done_before = whole.units - 1
    if lost in ("receipt", "all receipts"):
        for receipt in sorted(out.glob("receipts/*/*.arrow"))[3 : None if "all" in lost else 4]:
            receipt.unlink()
        done_before = 3 if lost == "all receipts" else done_before
        (out / "manifest.json").unlink()
    elif lost == "shard":
        shard.unlink()
    elif lost == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        (out / "manifest.json").unlink()
        done_before = whole.units
    again = tokenize(path, unit_bytes=9_000)
    assert again.skipped == done_before
    assert files_of(out) == before
    assert (kept.stat().st_mtime_ns == stamp) == (lost != "all receipts")
    verify(str(out))


def test_any_unit_size_and_any_shard_size_give_the_same_stream(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    tokenize(path, output=tmp_path / "one")
    expected = documents_of(tmp_path / "one")
    for number, sizes in enumerate(({"unit_bytes": 5_000}, {"shard_bytes": 3_000}), 1):
        out = tmp_path / f"other{number}"
        tokenize(path, output=out, **sizes)
        assert documents_of(out) == expected
        assert len(open_dataset(str(out)).index) > 5
    dataset = open_dataset(str(tmp_path / "other2"))
    index, width = dataset.index, dataset.dtype.itemsize
    assert all(
        tokens * width <= 3_000 or docs == 1
        for tokens, docs in zip(index.tokens, index.documents, strict=True)
    )
    # No shard could have taken the next one's first document.
    tokens = [len(ids) for ids in expected]
    firsts = np.cumsum([0, *index.documents])
    for shard, (start, stop) in enumerate(pairwise(firsts[:-1])):
        assert (index.tokens[shard] + tokens[stop]) * width > 3_000, (start, stop)


def test_jsonl_and_its_compressed_forms_give_the_same_shard_bytes(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    data = path.read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(data))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "d.parquet")
    shards = []
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        tokenize(tmp_path / name, output=tmp_path / f"out-{name}")
        shards.append(
            [f.read_bytes() for f in sorted((tmp_path / f"out-{name}").glob("shards/*/*"))]
        )
    assert len(shards[0]) == 1
    assert all(other == shards[0] for other in shards[1:])


def test_text_files_are_documents_and_labels_keep_sources_apart(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    (tmp_path / "web").mkdir()
    for name in ("1.txt", "2.md"):
        (tmp_path / "web" / name).write_text(f"whole\nfile {name}\n")
    code = write_jsonl(tmp_path / "code.jsonl", ["x = 1"])
    tokenize(f"web={tmp_path / 'web'}", f"code={code}")
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.manifest.sources == ("code", "web")
    assert len(documents_of(tmp_path / "out", "web")) == 2
    assert len(documents_of(tmp_path / "out", "code")) == 1
    summary = tokenize(tmp_path / "web", output=tmp_path / "lines", text_split="line")
    assert summary.counts.documents == 4


def test_s3_in_and_out_gives_the_same_bytes_as_files(
    tokenize: Callable[..., Summary], tmp_path: Path, s3: S3Server
) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=100)
    write_jsonl(tmp_path / "b.jsonl", TEXTS)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "b.jsonl").read_bytes()))
    bucket = s3.bucket("pipelines-job")
    for name in ("a.parquet", "b.jsonl", "c.jsonl.gz"):
        s3.client().upload_file(str(tmp_path / name), "pipelines-job", f"corpus/{name}")
    tokenize(
        *(tmp_path / name for name in ("a.parquet", "b.jsonl", "c.jsonl.gz")), unit_bytes=9_000
    )
    summary = tokenize(f"{bucket}/corpus/**", output=f"{bucket}/tokens/v1", unit_bytes=9_000)
    assert summary.units > 5
    assert documents_of(f"{bucket}/tokens/v1") == documents_of(tmp_path / "out")
    assert documents_of(tmp_path / "out") == [
        ids for _ in range(3) for ids in documents_of(tmp_path / "out")[: len(TEXTS)]
    ]
    verify(f"{bucket}/tokens/v1")
    assert tokenize(
        f"{bucket}/corpus", output=f"{bucket}/tokens/v1", unit_bytes=9_000
    ).nothing_to_do


def test_an_s3_object_that_changes_after_the_plan_is_an_error(
    tokenize: Callable[..., Summary], tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket("pipelines-change")
    s3.client().put_object(Bucket="pipelines-change", Key="a.jsonl", Body=b'{"text": "x"}\n')
    planned = find_inputs

    def then_change(*arguments: Any) -> Any:
        found = planned(*arguments)
        s3.client().put_object(Bucket="pipelines-change", Key="a.jsonl", Body=b'{"text": "y"}\n')
        return found

    monkeypatch.setattr("pipelines.prepare.find_inputs", then_change)
    with pytest.raises(StokerError, match=r"a\.jsonl changed since the plan"):
        tokenize(f"{bucket}/a.jsonl")


# --- bad input, clear words --------------------------------------------------------------------


def test_bad_rows_within_the_budget_are_set_apart_and_counted(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\noops\n{"text": 1}\n{"text": "b"}\n')
    summary = tokenize(path, max_bad_rows=2)
    counts = summary.counts
    assert (counts.rows, counts.documents, counts.quarantined) == (4, 2, 2)
    assert "bad rows    2" in str(summary)
    [file] = (tmp_path / "out").glob("quarantine/*/*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["place"] for row in rows] == ["line at byte 14", "line at byte 19"]
    assert rows[0].keys() == {"uri", "place", "reason", "sample"}
    assert rows[0]["sample"] == "oops"


def test_bad_rows_over_the_budget_fail_the_job_with_the_first_ten_places(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 50 + "oops\n" * 40)
    with pytest.raises(StokerError) as caught:
        tokenize(path)
    first, *places = str(caught.value).splitlines()
    assert "--max-bad-rows 0" in first
    assert len(places) == 10
    assert places[0].startswith(f"  {path} line at byte 850: malformed JSON: ")
    assert places[9].startswith(f"  {path} line at byte {850 + 9 * 5}: ")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_budget_is_the_whole_jobs_and_counts_units_of_earlier_runs(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join('{"text": "fine"}\n' * 100 + "oops\n" for _ in range(6)))
    with pytest.raises(StokerError, match="more malformed rows"):
        tokenize(path, unit_bytes=1800, max_bad_rows=3)
    with pytest.raises(StokerError, match="more malformed rows"):
        tokenize(path, unit_bytes=1800, max_bad_rows=5)
    summary = tokenize(path, unit_bytes=1800, max_bad_rows=6)
    assert summary.skipped > 0
    assert summary.counts.quarantined == 6


def test_another_plan_into_the_same_output_is_refused_unless_overwriting(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    a, b = (write_jsonl(tmp_path / f"{name}.jsonl", [name]) for name in "ab")
    first = tokenize(a)
    old = {f: f.read_bytes() for f in (tmp_path / "out").glob("shards/*/*")}
    with pytest.raises(StokerError, match=f"holds another plan .{first.plan}.*--overwrite"):
        tokenize(b)
    second = tokenize(b, overwrite=True)
    assert open_dataset(str(tmp_path / "out")).manifest.plans == (second.plan,)
    assert all(f.read_bytes() == data for f, data in old.items()), "readers of the old one go on"
    assert tokenize(b, overwrite=True).nothing_to_do


def test_another_plan_that_was_only_begun_is_refused_too(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    a, b = (write_jsonl(tmp_path / f"{name}.jsonl", [name]) for name in "ab")
    tokenize(a)
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(StokerError, match="was begun with another plan"):
        tokenize(b)


def test_a_missing_column_fails_before_any_task_starts(
    tokenize: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"body": ["x"], "url": ["y"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(job, "ray_cluster", lambda: pytest.fail("Ray was asked for"))
    with pytest.raises(StokerError, match="no column 'text': it has body, url"):
        tokenize(tmp_path / "a.parquet")


def test_a_later_file_without_the_column_fails_with_its_name(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(StokerError, match=r"b\.parquet has no column 'text'"):
        tokenize(tmp_path / "*.parquet")


def test_a_damaged_file_fails_the_job_whatever_the_budget(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    whole = gzip.compress(write_jsonl(tmp_path / "b.jsonl", TEXTS).read_bytes())
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StokerError, match=r"b\.jsonl\.gz is damaged"):
        tokenize(tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", max_bad_rows=10**9)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_input_without_a_document_says_so(tokenize: Callable[..., Summary], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(StokerError, match="no document"):
        tokenize(tmp_path / "a.jsonl")


@pytest.mark.parametrize("uri", ["s3://no-such-bucket-here/x", "gs://bucket/x"])
def test_an_output_that_cannot_be_is_refused(
    uri: str, tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    with pytest.raises(StokerError, match=re.escape(uri)):
        tokenize(write_jsonl(tmp_path / "a.jsonl", ["x"]), output=uri)


# --- beside the data ---------------------------------------------------------------------------


def test_the_only_clock_is_in_the_log(tokenize: Callable[..., Summary], tmp_path: Path) -> None:
    summary = tokenize(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    log = json.loads((tmp_path / "out" / summary.log).read_text())
    assert log["plan"] == summary.plan
    assert log["finished"].startswith("20")
    assert log["counts"]["documents"] == len(TEXTS)
    year = log["finished"][:7].encode()
    for key, data in files_of(tmp_path / "out").items():
        assert year not in data, key


def test_documents_that_hold_a_special_tokens_text_are_counted(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    texts = ["plain <|", "a<|end|>b<|end|>", "<|pad|>", "[PLAIN]", "<|en"]
    for mode in ("text", "control"):
        summary = tokenize(
            write_jsonl(tmp_path / "a.jsonl", texts), output=tmp_path / mode, special_tokens=mode
        )
        assert summary.counts.special_documents == 2


def test_a_document_longer_than_a_shard_has_one_of_its_own(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    texts = ["short", "x y " * 1000, "short", "", "z " * 900]
    tokenize(write_jsonl(tmp_path / "a.jsonl", texts), shard_bytes=400)
    index = open_dataset(str(tmp_path / "out")).index
    assert index.documents.tolist() == [1, 1, 2, 1]
    verify(str(tmp_path / "out"))
