"""`python -m loaders at`: from a state and a step to the documents in a batch."""

import json
import os
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from loaders import TokenDataset
from loaders.__main__ import main
from tests.datasets import write_dataset
from tests.loaders.support import token_loader
from tests.servers import S3Server

SEQ_LEN = 64
LENGTHS = [[100, 3, 700, 0, 61] * 9, [5], [1, 90, 2000, 12] * 7]


@pytest.fixture(scope="module", params=["disk", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "disk":
        uri = str(tmp_path_factory.mktemp("at") / "tokens")
    else:
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-at") + "/tokens"
    # A token's value is its place in the stream.
    shards, columns, at = [], [], 0
    for number, lengths in enumerate(LENGTHS):
        ends = at + np.cumsum([0, *lengths])
        shards.append([np.arange(a, b, dtype=np.uint32) for a, b in pairwise(ends)])
        columns.append({"url": pa.array([f"a://{number}/{n}\x1b[2J" for n in range(len(lengths))])})
        at = int(ends[-1])
    write_dataset(uri, shards, columns=columns)
    return uri


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["at", *arguments]) == 0
    return capsys.readouterr().out


def tokens_named(lines: str) -> list[list[int]]:
    """The tokens of each row, from the excerpts that were printed as JSON."""
    ends = [at + np.cumsum([0, *lengths]) for at, lengths in zip(_starts(), LENGTHS, strict=True)]
    rows: dict[int, list[int]] = {}
    for line in lines.splitlines():
        one = json.loads(line)
        shard = int(one["path"].rsplit("/")[-1][:8])
        assert one["columns"]["url"] == f"a://{shard}/{one['document']}\x1b[2J"
        assert one["tokens"] == LENGTHS[shard][one["document"]]
        begin = int(ends[shard][one["document"]])
        rows.setdefault(one["row"], []).extend(range(begin + one["start"], begin + one["stop"]))
    return [rows[number] for number in range(len(rows))]


def _starts() -> list[int]:
    return [0, *np.cumsum([sum(lengths) for lengths in LENGTHS]).tolist()[:-1]]


@pytest.mark.parametrize("drop_last", [False, True])
def test_each_batch_after_a_state_is_named_token_by_token(
    uri: str, drop_last: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    loader = token_loader(TokenDataset(uri, SEQ_LEN), 8, True, drop_last=drop_last)
    batches = [*islice(loader.repeat(), 70)]  # over two epochs
    states = tmp_path / "state.json"
    for before, steps in ((0, range(0, 70, 17)), (5, (-5, -1, 0, 60))):
        start = token_loader(TokenDataset(uri, SEQ_LEN), 8, True, drop_last=drop_last)
        start.skip(before)
        states.write_text(json.dumps(start.state_dict()))
        for step in steps:
            chosen = ["--state", str(states), "--step", str(step), "--json"]
            lines = run(capsys, uri, *chosen, *["--drop-last"] * drop_last)
            assert tokens_named(lines) == batches[before + step]["input_ids"].tolist(), step


def test_rows_of_all_ranks_and_of_another_length_are_named(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ranks(seq_len: int, size: int) -> list[Any]:
        return [
            token_loader(
                TokenDataset(uri, seq_len), size, True, lanes=8, seed=3,
                data_parallel_rank=rank, data_parallel_size=2,
            )
            for rank in range(2)
        ]  # fmt: skip

    longs = ranks(SEQ_LEN, 3)
    for loader in longs:
        next(iter(loader))
    shorts = ranks(SEQ_LEN // 4, 5)
    for loader in shorts:
        loader.load_state_dict(longs[0].state_dict())
    state = json.dumps(shorts[1].state_dict())
    for step, batches in enumerate(islice(zip(*shorts, strict=True), 6)):
        together = torch.cat([batch["input_ids"] for batch in batches]).tolist()
        lines = run(capsys, uri, "--state", state, "--step", str(step), "--json")
        assert sorted(tokens_named(lines)) == sorted(together)


def test_a_person_reads_shard_document_tokens_and_columns(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = token_loader(TokenDataset(uri, SEQ_LEN), 2, shuffle=False)
    lines = run(capsys, uri, "--state", json.dumps(loader.state_dict())).splitlines()
    assert lines[0].endswith("epoch 0, rows [0, 2) of 351, 64 tokens each")
    assert lines[1] == "row 0: sample 0"
    assert lines[2].endswith("00000000-000.arrow document 0, tokens [0, 64) of 100  url=a://0/0[2J")
    assert lines[3] == "row 1: sample 1"
    assert [line.split("document ")[1].partition("  ")[0] for line in lines[4:]] == [
        "0, tokens [64, 100) of 100",
        "1, tokens [0, 3) of 3",
        "2, tokens [0, 25) of 700",
    ]


def test_the_json_has_the_fields_that_the_help_names_and_the_ranges_of_the_text(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = json.dumps(token_loader(TokenDataset(uri, SEQ_LEN), 8, True).state_dict())
    text = [
        line.partition("tokens ")[2].partition("  ")[0]
        for line in run(capsys, uri, "--state", state).splitlines()
        if " document " in line
    ]
    found = [*map(json.loads, run(capsys, uri, "--state", state, "--json").splitlines())]
    assert text == ["[{start}, {stop}) of {tokens}".format(**one) for one in found]
    with pytest.raises(SystemExit, match="0"):
        main(["at", "--help"])
    shown = capsys.readouterr().out.partition("With --json")[2].partition("\n\n")[0]
    fields = [line.split("   ")[0].strip().split(", ") for line in shown.splitlines()[1:]]
    assert [name for names in fields for name in names] == [*found[0]]


def test_what_cannot_be_answered_says_why(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = token_loader(TokenDataset(uri, SEQ_LEN), 8, True).state_dict()
    for arguments, words in (
        (["--state", json.dumps(state), "--step", "-1"], "lies before what this state knows"),
        (["--state", json.dumps({**state, "dataset": "x"})], "saved with dataset = 'x'"),
        (["--state", json.dumps({**state, "format": 1})], "of format 1"),
        (["--state", json.dumps({**state, "lanes": "x"})], "shuffle must be true or false"),
        (["--state", "nowhere.json"], "nowhere.json: "),
        (["--state", "{"], "not JSON"),
        (["--state", json.dumps(state), "--global-batch", "0"], "at least 1 row, not 0"),
    ):
        assert main(["at", uri, *arguments]) == 1
        assert words in capsys.readouterr().err
    assert main(["at", "/nowhere", "--state", json.dumps(state)]) == 1
    assert "holds no token dataset" in capsys.readouterr().err


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["at", "--help"])
    shown = capsys.readouterr().out
    for words in ("loss spike", "examples:", "--global-batch", "state.json", "the last one that"):
        assert words in shown


def test_the_command_runs_and_takes_a_state_from_a_pipe(tmp_path: Path, repository: Path) -> None:
    uri = str(tmp_path / "tokens")
    write_dataset(uri, [[np.arange(600, dtype=np.uint32)]])
    command = [sys.executable, "-m", "loaders", "at"]
    state = token_loader(TokenDataset(uri, SEQ_LEN), 8, True).state_dict()
    answer = subprocess.run(
        [*command, uri, "--state", "-"],
        cwd=repository,
        env={**os.environ},
        input=json.dumps(state),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.count("\nrow ") == 8
