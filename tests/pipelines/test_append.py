"""--append and --overwrite as a job does them: what is new is added, readers are undisturbed."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from loaders import TokenDataset
from pipelines import job, record
from pipelines.dry_run import preview
from pipelines.job import run
from pipelines.options import Options
from pipelines.summary import Summary
from shards.commit import InputFile, commit, publish
from shards.dataset import open_dataset
from shards.errors import StokerError
from shards.gc import collect_garbage
from shards.ledger import Ledger
from shards.verify import verify
from tests.datasets import description
from tests.pipelines.test_job import TEXTS, documents_of, files_of, write_jsonl
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer
from tests.servers import S3Server

pytestmark = pytest.mark.usefixtures("local_ray")

Tokenize = Callable[..., Summary]


@pytest.fixture
def tokenize(tmp_path: Path) -> Tokenize:
    """Runs the job on the folder `in` into `out`."""
    (tmp_path / "t.json").write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    (tmp_path / "in").mkdir()

    def start(**options: Any) -> Summary:
        chosen: dict[str, Any] = {
            "inputs": (str(tmp_path / "in"),),
            "output": str(tmp_path / "out"),
            "tokenizer": str(tmp_path / "t.json"),
            "end_token": "<|end|>",
            "unit_bytes": 9_000,
        }
        return run(Options(**{**chosen, **options}))

    return start


def forbid_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "ray_cluster", lambda: pytest.fail("Ray was asked for"))


def test_three_generations_each_the_beginning_of_the_next(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    expected: list[list[int]] = []
    readers = []
    for name, texts in (("m", TEXTS[:200]), ("a", TEXTS[200:350]), ("z", TEXTS[350:])):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", texts)
        summary = tokenize(append=True)
        before, expected = expected, documents_of(out)
        assert expected[: len(before)] == before
        assert len(expected) - len(before) == len(texts)
        assert summary.units > 1
        assert summary.counts.documents == len(expected)
        verify(str(out))
        readers.append((open_dataset(str(out)), len(expected)))
    assert len(open_dataset(str(out)).manifest.plans) == 3
    forbid_ray(monkeypatch)
    held = files_of(out, but=())
    again = tokenize(append=True)
    assert again.nothing_to_do
    assert (again.counts.documents, again.skipped) == (len(TEXTS), 0)
    assert files_of(out, but=()) == held
    assert [reader.manifest.documents for reader, _ in readers] == [n for _, n in readers]


@pytest.mark.slow
def test_an_append_gives_the_ids_of_a_job_of_its_own(tokenize: Tokenize, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:100])
    tokenize()
    write_jsonl(tmp_path / "in" / "b.jsonl", TEXTS[100:])
    tokenize(append=True)
    alone = str(tmp_path / "in" / "b.jsonl")
    tokenize(inputs=(alone,), output=str(tmp_path / "alone"))
    assert documents_of(tmp_path / "out")[100:] == documents_of(tmp_path / "alone")
    first, second = open_dataset(str(tmp_path / "out")).manifest.plans
    assert open_dataset(str(tmp_path / "alone")).manifest.plans == (second,) != (first,)


def test_an_append_that_was_stopped_goes_on_where_it_was(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:100])
    tokenize()
    before = documents_of(tmp_path / "out")
    write_jsonl(tmp_path / "in" / "b.jsonl", TEXTS[100:])
    with monkeypatch.context() as patch:

        def stop(*arguments: Any, **more: Any) -> None:
            raise StokerError("killed here")

        patch.setattr(record, "publish", stop)
        with pytest.raises(StokerError, match="killed here"):
            tokenize(append=True)
    assert documents_of(tmp_path / "out") == before
    [*receipts] = (tmp_path / "out").glob("receipts/*/*.arrow")
    newest = max(receipts, key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    summary = tokenize(append=True)
    assert summary.skipped == summary.units - 1 > 0
    assert len(documents_of(tmp_path / "out")) == len(TEXTS)
    verify(str(tmp_path / "out"))


def test_an_input_that_changed_is_named_and_nothing_is_written(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:10])
    tokenize()
    held = files_of(tmp_path / "out", but=())
    forbid_ray(monkeypatch)
    os.utime(path, ns=(1, 1))
    with pytest.raises(StokerError, match=r"other versions of .*a\.jsonl .*new name.*--overwrite"):
        tokenize(append=True)
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:11])
    with pytest.raises(StokerError, match=r"other versions of .*a\.jsonl"):
        tokenize(append=True)
    assert files_of(tmp_path / "out", but=()) == held


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"special_tokens": "control"}, "special tokens is 'text', this one is 'control'"),
        ({"end_token": "<|pad|>"}, r"end token is \d+ '<\|end\|>', this one is \d+ '<\|pad\|>'"),
        ({"tokenizer": "other.json"}, r"tokenizer is .*t\.json \(sha256 .*other\.json"),
    ],
)
def test_other_tokens_cannot_follow_and_both_are_named(
    change: dict[str, str], words: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:10])
    tokenize()
    (tmp_path / "other.json").write_text(blob(pair_tokenizer(merged="Ġdoc")))
    if "tokenizer" in change:
        change = {"tokenizer": str(tmp_path / "other.json")}
    write_jsonl(tmp_path / "in" / "b.jsonl", TEXTS[:10])
    with pytest.raises(StokerError, match=f"can't be appended to: .*{words}"):
        tokenize(append=True, **change)


@pytest.mark.slow
def test_another_label_for_a_held_input_is_refused(tokenize: Tokenize, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:10])
    tokenize(inputs=(f"web={path}",))
    with pytest.raises(StokerError, match=r"under another label .*was 'web', now 'code'"):
        tokenize(inputs=(f"code={path}",), append=True)


def test_kept_columns_have_the_datasets_types_whatever_the_new_files_first_rows_suggest(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    def write(name: str, scores: list[object]) -> None:
        rows = [{"text": f"document {score}", "score": score} for score in scores]
        (tmp_path / "in" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("a.jsonl", [1.5, 2])
    tokenize(keep_columns=("score",))
    write("b.jsonl", [3, 4])
    with pytest.raises(StokerError, match=r"keeps are score \(double\), these would be none"):
        tokenize(append=True)
    tokenize(keep_columns=("score",), append=True)
    dataset = open_dataset(str(tmp_path / "out"))
    shards = (dataset.store.read(dataset.path(n)) for n in range(len(dataset.index.bytes)))
    kept = [pa.ipc.open_file(shard).read_all()["score"] for shard in shards]
    assert [(str(k.type), k.to_pylist()) for k in kept] == [
        ("double", [1.5, 2.0]),
        ("double", [3.0, 4.0]),
    ]


def test_a_dry_run_of_an_append_without_new_input_says_that_nothing_is_to_do(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:30])
    tokenize()
    chosen = {"inputs": (str(tmp_path / "in"),), "output": str(tmp_path / "out")}
    same = Options(
        **chosen,  # type: ignore[arg-type]
        tokenizer=str(tmp_path / "t.json"),
        end_token="<|end|>",
        append=True,
        dry_run=True,
    )
    said = str(preview(same))
    assert said.endswith("holds all of this input already, nothing to do")


@pytest.mark.slow
def test_new_labels_come_with_an_append(tokenize: Tokenize, tmp_path: Path) -> None:
    web = write_jsonl(tmp_path / "in" / "web.jsonl", TEXTS[:30])
    code = write_jsonl(tmp_path / "in" / "code.jsonl", TEXTS[30:50])
    tokenize(inputs=(f"web={web}",))
    tokenize(inputs=(f"web={web}", f"code={code}"), append=True)
    assert open_dataset(str(tmp_path / "out")).manifest.sources == ("code", "web")
    assert len(documents_of(tmp_path / "out", "web")) == 30
    assert len(documents_of(tmp_path / "out", "code")) == 20


def test_without_append_the_refusal_says_that_it_would_work_where_it_would(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:10])
    tokenize()
    write_jsonl(tmp_path / "in" / "b.jsonl", TEXTS[:10])
    with pytest.raises(StokerError, match=r"--append \(it lacks 1 of these inputs\), or --over"):
        tokenize()
    with pytest.raises(StokerError) as caught:
        tokenize(special_tokens="control")
    assert "--append" not in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_append_and_overwrite_together_are_refused(tokenize: Tokenize) -> None:
    with pytest.raises(StokerError, match="append keeps"):
        tokenize(append=True, overwrite=True)


@pytest.mark.slow
def test_a_lost_shard_of_a_dataset_without_new_input_is_an_error_that_names_it(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    for name in "ab":
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", TEXTS[:100])
        tokenize(append=True)
    lost = sorted((tmp_path / "out").glob("shards/*/*.arrow"))[0]
    lost.unlink()
    with pytest.raises(StokerError, match=rf"1 are missing or cut short, shards/.*{lost.name}"):
        tokenize(append=True)


def test_a_commit_by_another_job_in_between_is_not_overwritten(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:10])
    tokenize()
    write_jsonl(tmp_path / "in" / "c.jsonl", TEXTS[:30])

    def late(store: Any, manifest: Any, **more: Any) -> None:
        monkeypatch.setattr(record, "publish", publish)
        other = [InputFile("other", 1, "etag", "default")]
        commit(
            store, description("uint16"), Ledger(store, "f" * 16), other, after=open_dataset(out)
        )
        publish(store, manifest, **more)

    out = str(tmp_path / "out")
    monkeypatch.setattr(record, "publish", late)
    with pytest.raises(StokerError, match=rf"changed while this job ran .*{'f' * 16}"):
        tokenize(append=True)
    assert open_dataset(out).manifest.plans[1] == "f" * 16
    assert len(documents_of(out)) == 10


@pytest.mark.slow
def test_append_on_s3(tokenize: Tokenize, tmp_path: Path, s3: S3Server) -> None:
    bucket = s3.bucket("append")
    for name in "ab":
        path = write_jsonl(tmp_path / f"{name}.jsonl", TEXTS[:100])
        s3.client().upload_file(str(path), "append", f"in/{name}.jsonl")
        tokenize(inputs=(f"{bucket}/in/",), output=f"{bucket}/out", append=True)
    verify(f"{bucket}/out")
    assert tokenize(inputs=(f"{bucket}/in/",), output=f"{bucket}/out", append=True).nothing_to_do
    s3.client().upload_file(str(path), "append", "in/a.jsonl")
    assert len(documents_of(f"{bucket}/out")) == 200


@pytest.mark.parametrize("how", [pytest.param("append", marks=pytest.mark.slow), "overwrite"])
def test_a_reader_of_the_old_generation_is_undisturbed_while_and_after_another_is_written(
    how: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:300])
    tokenize()
    reader = TokenDataset(str(tmp_path / "out"), 64)
    expected = [sample["input_ids"].tolist() for sample in reader[:]]
    rounds, wrong = [0], []
    ended = threading.Event()

    def read_on() -> None:
        while not ended.is_set():
            found = reader[:]
            if [sample["input_ids"].tolist() for sample in found] != expected:
                wrong.append(rounds[0])
            rounds[0] += 1

    thread = threading.Thread(target=read_on)
    thread.start()
    try:
        write_jsonl(tmp_path / "in" / "b.jsonl", TEXTS[300:])
        tokenize(**{how: True})
    finally:
        ended.set()
        thread.join()
    assert rounds[0] > 1
    assert not wrong
    assert [sample["input_ids"].tolist() for sample in reader[:]] == expected
    assert TokenDataset(str(tmp_path / "out"), 64).samples > reader.samples
    collect_garbage(str(tmp_path / "out"), delete=True)
    if how == "append":
        assert [sample["input_ids"].tolist() for sample in reader[:]] == expected
    else:
        with pytest.raises(StokerError, match=r"out/.*\.arrow: no such file"):
            pickle.loads(pickle.dumps(reader))[:]  # files that are open outlive their names
