"""gc removes what no manifest names, nothing else, and never while somebody writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from shards.commit import InputFile, commit
from shards.dataset import open_dataset
from shards.errors import StokerError
from shards.format import packs_path
from shards.gc import Garbage, collect_garbage, find_garbage
from shards.lease import LEASE, Lease
from shards.receipt import Counts, Receipt, ShardRecord, write_receipt
from shards.store import Store, open_store
from shards.verify import verify
from shards.writer import build_shard
from tests.datasets import description
from tests.servers import S3Server

A, B, C = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture(params=["disk", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    s3: S3Server = request.getfixturevalue("s3")
    return s3.bucket("garbage") + "/out"


def begin(store: Store, plan: str) -> list[Receipt]:
    """What a job leaves before its commit: plan, shards, receipts, rows set apart."""
    store.write("plan.json", json.dumps({"plan": plan}).encode())
    receipts = []
    for unit in range(3):
        tokens = np.arange(50, dtype=np.uint16) + int(plan[0], 16)
        built = build_shard(np.array([0, 50], np.int64), tokens)
        record = ShardRecord.of(plan, unit, 0, built)
        store.write(record.path, memoryview(built.data))
        counts = Counts(rows=2, documents=1, quarantined=1, tokens=50)
        receipts.append(Receipt(unit, counts, (record,)))
        store.write(f"quarantine/{plan}/{unit:08d}.jsonl", b"{}\n")
        write_receipt(store, plan, receipts[-1])
    store.write(f"logs/{plan}-1/report.json", b"{}")
    return receipts


def finish(store: Store, plan: str, *, append: bool = False) -> None:
    receipts = begin(store, plan)
    inputs = [InputFile(f"in-{plan}", 1, "x", "default")]
    after = open_dataset(store.uri) if append else None
    commit(store, description("uint16"), receipts, inputs, after=after)


def keys(store: Store) -> set[str]:
    return {entry.key for entry in store.list()}


def kinds(garbage: Garbage) -> dict[str, int]:
    return dict(garbage.files)


def test_what_an_overwrite_left_is_listed_and_then_deleted(uri: str) -> None:
    store = open_store(uri)
    finish(store, B)
    alone = keys(store)
    finish(store, A)
    finish(store, B)
    store.write("README.txt", b"not Stoker's")
    store.write(f"shards/{A}/notes.arrow.bak", b"not Stoker's")
    before = keys(store)
    garbage = collect_garbage(uri)
    assert kinds(garbage) == {"shards": 3, "receipts": 3, "quarantine": 3, "tables": 3}
    assert keys(store) == before, "listing deletes nothing"
    sizes = {entry.key: entry.size for entry in store.list()}
    assert garbage.bytes.total() == sum(sizes[key] for key in garbage.keys)
    collect_garbage(uri, delete=True)
    foreign = {"README.txt", f"shards/{A}/notes.arrow.bak", f"logs/{A}-1/report.json"}
    assert keys(store) == alone | foreign
    verify(uri)
    assert not len(collect_garbage(uri))


def test_plans_of_packs_go_with_the_generation_that_they_are_plans_of(uri: str) -> None:
    store = open_store(uri)
    plans = []
    for plan in (A, B):
        finish(store, plan)
        plans.append(packs_path(open_dataset(uri).id, "0" * 16))
        store.write(plans[-1], b"")
    store.write("packs/mine.arrow", b"not Stoker's")
    assert kinds(collect_garbage(uri))["plans of packs"] == 1
    collect_garbage(uri, delete=True)
    assert {key for key in keys(store) if key.startswith("packs/")} == {
        plans[1],
        "packs/mine.arrow",
    }
    finish(store, C, append=True)
    assert collect_garbage(uri).files["plans of packs"] == 1


def test_every_generation_of_an_append_stays_and_only_its_old_tables_go(uri: str) -> None:
    store = open_store(uri)
    finish(store, A)
    finish(store, B, append=True)
    finish(store, C, append=True)
    assert kinds(collect_garbage(uri, delete=True)) == {"tables": 6}
    verify(uri)
    assert open_dataset(uri).manifest.plans == (A, B, C)


def test_the_progress_of_an_unfinished_job_is_kept_unless_it_is_given_up(uri: str) -> None:
    store = open_store(uri)
    finish(store, A)
    whole = keys(store)
    begin(store, C)  # given up: another was begun after it
    begin(store, B)
    garbage = collect_garbage(uri, delete=True)
    assert kinds(garbage) == {"shards": 3, "receipts": 3, "quarantine": 3}
    assert (garbage.kept_plan, garbage.kept_files) == (B, 10)
    assert any(B in line and "--unfinished" in line for line in garbage.lines(uri, True))
    assert f"shards/{B}/00000000-000.arrow" in keys(store)
    collect_garbage(uri, delete=True, unfinished=True)
    left = {key for key in keys(store) if not key.startswith("logs/")}
    assert left == {key for key in whole if not key.startswith("logs/")} - {"plan.json"}
    verify(uri)


def test_without_a_manifest_nothing_is_garbage_unless_the_job_is_given_up(uri: str) -> None:
    store = open_store(uri)
    begin(store, A)
    before = keys(store)
    with pytest.raises(StokerError, match=r"no manifest\.json.*progress of a job.*--unfinished"):
        collect_garbage(uri, delete=True)
    assert keys(store) == before
    collect_garbage(uri, delete=True, unfinished=True)
    assert keys(store) == {f"logs/{A}-1/report.json"}


def test_it_refuses_while_a_job_is_writing_and_not_after_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "out")
    store = open_store(uri)
    finish(store, A)
    finish(store, B)
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "0.6")
    code = (
        "import sys, time\n"
        "from shards.hold import hold_lease\n"
        "from shards.store import open_store\n"
        "with hold_lease(open_store(sys.argv[1]), print): print('held', flush=True); time.sleep(99)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, uri], stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        before = keys(store) - {LEASE}
        for delete in (False, True):
            with pytest.raises(StokerError, match="job is writing there"):
                collect_garbage(uri, delete=delete)
        assert keys(store) - {LEASE} == before
        job.kill()
    assert len(collect_garbage(uri, delete=True)) == 12
    assert LEASE not in keys(store)


def test_a_job_that_takes_over_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards import hold

    uri = str(tmp_path / "out")
    store = open_store(uri)
    finish(store, A)
    finish(store, B)
    checked: list[int] = []

    def lost(self: hold.HeldLease) -> None:
        checked.append(1)
        raise StokerError("the lease of this job was taken over")

    monkeypatch.setattr(hold.HeldLease, "check", lost)
    before = keys(store)
    with pytest.raises(StokerError, match="taken over"):
        collect_garbage(uri, delete=True)
    assert checked
    assert keys(store) == before


def test_temporary_files_of_killed_writers_go(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    finish(open_store(uri), A)
    torso = tmp_path / "out" / "shards" / A / f".00000007-000.arrow.{uuid.uuid4().hex}.tmp"
    mine = tmp_path / "out" / ".notes.tmp"
    for path in (torso, mine):
        path.write_bytes(b"12345")
    garbage = collect_garbage(uri, delete=True)
    assert (kinds(garbage), garbage.bytes.total()) == ({"unfinished writes": 1}, 5)
    assert not torso.exists()
    assert mine.exists()


def test_folders_that_become_empty_go_too(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    finish(open_store(uri), A)
    finish(open_store(uri), B)
    collect_garbage(uri, delete=True)
    assert [path.name for path in (tmp_path / "out" / "shards").iterdir()] == [B]


def test_uploads_that_were_never_ended_are_found_and_aborted(s3: S3Server) -> None:
    uri = s3.bucket("torsos") + "/out"
    finish(open_store(uri), A)
    client = s3.client()
    for key in ("out/shards/x", "elsewhere/x"):
        where = {"Bucket": "torsos", "Key": key}
        number = client.create_multipart_upload(**where)["UploadId"]
        client.upload_part(**where, UploadId=number, PartNumber=1, Body=b"x" * 1000)
    garbage = collect_garbage(uri)
    assert (kinds(garbage), garbage.bytes.total()) == ({"unfinished writes": 1}, 1000)
    collect_garbage(uri, delete=True)
    assert not len(collect_garbage(uri))
    left = client.list_multipart_uploads(Bucket="torsos").get("Uploads", [])
    assert [upload["Key"] for upload in left] == ["elsewhere/x"]


def gc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shards", "gc", *arguments],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_lists_says_what_to_do_next_deletes_and_teaches(
    tmp_path: Path, repository: Path
) -> None:
    uri = str(tmp_path / "out")
    finish(open_store(uri), A)
    finish(open_store(uri), B)
    listed = gc(uri, cwd=repository)
    assert listed.returncode == 0, listed.stderr
    assert "no manifest names 12 files" in listed.stdout
    assert "--delete" in listed.stdout
    done = gc(uri, "--delete", cwd=repository)
    assert "deleted 12 files" in done.stdout
    assert "nothing to collect" in gc(uri, cwd=repository).stdout
    wrong = gc(str(tmp_path), "--delete", cwd=repository)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"error: {tmp_path} has no manifest.json")
    text = gc("--help", cwd=repository).stdout
    assert all(word in text for word in ("--overwrite", "--append", "--unfinished", "examples:"))


def test_a_lease_is_no_garbage(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    finish(open_store(uri), A)
    open_store(uri).write(LEASE, Lease.mine().to_json())
    assert not find_garbage(open_store(uri)).keys
