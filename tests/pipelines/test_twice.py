"""The same unit in two processes at the same time: the same bytes under the same names."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.inputs import find_inputs
from pipelines.options import Options, ReadOptions
from pipelines.plan import make_plan
from pipelines.write import Job, run_unit
from shards.store import LocalStore, open_store
from tests.pipelines.processes import REPOSITORY, environment
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer
from tests.servers import S3Server

ROUNDS = 5

# Both wait for a line before each round, so that they run side by side.
RUNNER = """
import pickle, sys
from pipelines.write import run_unit

unit, job = pickle.loads(open(sys.argv[1], "rb").read())
print("ready", flush=True)
for line in sys.stdin:
    print(run_unit(unit, job).counts, flush=True)
"""


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_unit_that_runs_twice_at_the_same_time_is_written_once(
    where: str, s3: S3Server, tmp_path: Path
) -> None:
    lines = [json.dumps({"text": f"{i} " + "some words 0123 " * (i % 50)}) for i in range(2000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    [unit] = make_plan(
        find_inputs([str(tmp_path / "in.jsonl")]),
        Options(inputs=("x",), output="x", tokenizer="x"),
        fingerprint="",
        end_id=0,
        format_version=1,
    ).units
    output = s3.bucket("twice") if where == "s3" else str(tmp_path / "both")

    def job(output: str) -> Job:
        return Job(
            plan="0123456789abcdef",
            output=output,
            engine="tokenizers",
            blob=blob(pair_tokenizer(merged="Ġdocumentwr0123")),
            special_tokens="text",
            special_texts=(),
            end_id=0,
            dtype="uint16",
            reading=ReadOptions(),
            shard_bytes=50_000,
            max_bad_rows=0,
        )

    alone = LocalStore(str(tmp_path / "alone"))
    run_unit(unit, job(alone.uri))
    expected = {entry.key: alone.read(entry.key) for entry in alone.list()}
    assert len(expected) > 5

    (tmp_path / "work").write_bytes(pickle.dumps((unit, job(output))))
    command = [sys.executable, "-c", RUNNER, str(tmp_path / "work")]
    env = environment(tmp_path, PYTHONPATH=str(REPOSITORY), **s3.env)
    both = [
        subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for runner in both:
            assert answer(runner) == "ready"
        for _ in range(ROUNDS):
            store = open_store(output)
            store.delete_many([entry.key for entry in store.list()])
            for runner in both:
                begin(runner)
            [counts] = {answer(runner) for runner in both}
            assert "documents=2000" in counts
            assert {entry.key: store.read(entry.key) for entry in store.list()} == expected
    finally:
        for runner in both:
            runner.kill()
            runner.communicate()


def begin(runner: subprocess.Popen[str]) -> None:
    assert runner.stdin is not None
    runner.stdin.write("go\n")
    runner.stdin.flush()


def answer(runner: subprocess.Popen[str]) -> str:
    assert runner.stdout is not None
    return runner.stdout.readline().strip()
