"""`python -m shards`: what a person sees, and how it ends."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from shards.commit import InputFile, commit
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import open_store
from shards.writer import build_shard
from tests.datasets import PLAN, description


def shards(*args: str, cwd, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shards", *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def dataset(tmp_path):
    """Two documents that a real tokenizer decodes; one steers the terminal."""
    words = {"<end>": 0, "hello": 1, "\x1b[31mred\u202e": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    blob = tokenizer.to_str()
    about = description("uint16")
    info = about.tokenizer.model_copy(
        update={"fingerprint": hashlib.sha256(blob.encode()).hexdigest(), "name": "evil\x1b[2J"}
    )
    store = open_store(str(tmp_path / "d"))
    built = build_shard(
        np.array([0, 2, 4], np.int64),
        np.array([1, 0, 2, 0], np.uint16),
        columns={"url": pa.array(["a://b", "\x1b[2Jc"]), "year": pa.array([2001, None])},
    )
    record = ShardRecord.of(PLAN, 0, 0, built)
    store.write(record.path, built.data)
    receipt = Receipt(0, Counts(rows=2, documents=2, tokens=4), (record,))
    about = type(about)(**{**about.__dict__, "tokenizer": info, "tokenizer_json": blob})
    commit(store, about, [receipt], [InputFile("in", 1, "x", "default")])
    return tmp_path / "d"


def test_inspect_tells_totals_tokenizer_and_provenance(dataset, repository):
    answer = shards("inspect", str(dataset), cwd=repository)
    assert answer.returncode == 0, answer.stderr
    for words in ("tokens      4 as uint16", "documents 2", "evil[2J", PLAN, "2 rows"[:1]):
        assert words in answer.stdout
    assert "\x1b" not in answer.stdout


def test_inspect_json_is_the_manifest(dataset, repository):
    answer = shards("inspect", "--json", str(dataset), cwd=repository)
    assert json.loads(answer.stdout) == json.loads((dataset / "manifest.json").read_text())


def test_sample_decodes_and_strips_control_characters(dataset, repository):
    answer = shards("sample", str(dataset), cwd=repository)
    assert answer.returncode == 0, answer.stderr
    assert "hello <end>" in answer.stdout
    assert "[31mred" in answer.stdout
    for words in ("url: a://b", "year: 2001", "url: [2Jc", "year: None"):
        assert f"    {words}\n" in answer.stdout
    assert "\x1b" not in answer.stdout
    assert "\u202e" not in answer.stdout


def test_verify_says_that_all_is_well_or_exits_1_with_the_broken_shard(dataset, repository):
    answer = shards("verify", str(dataset), cwd=repository)
    assert answer.returncode == 0
    assert "1 shards" in answer.stdout
    path = next((dataset / "shards").rglob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-1])
    answer = shards("verify", str(dataset), cwd=repository)
    assert answer.returncode == 1
    assert path.name in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_dataset_is_one_line_and_exit_1(tmp_path, repository):
    answer = shards("inspect", str(tmp_path), cwd=repository)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {tmp_path} holds no token dataset")
    assert len(answer.stderr.splitlines()) <= 2


def test_wrong_usage_exits_2_and_help_teaches(repository):
    assert shards("inspct", "x", cwd=repository).returncode == 2
    text = shards("--help", cwd=repository).stdout
    assert all(word in text for word in ("inspect", "verify", "sample"))
