"""`--dry-run`: the plan in words, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import tokenize
from pipelines.dry_run import preview
from pipelines.job import run
from pipelines.options import Options, parse_options
from shards.errors import StokerError
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

TEXTS = [f"document {n} {'word ' * (n % 50)}" for n in range(2000)]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command line over two sources in three formats; the output doesn't exist."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.table({"text": TEXTS, "n": range(len(TEXTS))}), tmp_path / "c.parquet")
    (tmp_path / "tokenizer.json").write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    return [
        *("--input", f"web={tmp_path}/*.jsonl*", f"old={tmp_path}/c.parquet"),
        *("--output", str(tmp_path / "out"), "--tokenizer", str(tmp_path / "tokenizer.json")),
        *("--end-token", "<|end|>", "--unit-bytes", "40k", "--dry-run"),
    ]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert tokenize.main([*command, "--validation", "0.1", "--min-tokens", "3"]) == 0
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    for words in (
        r"dry run: nothing is written",
        r"output +\S+/out: to be written",
        r"input +3 files, \d+.*KiB to read",
        r"web: 1 jsonl, ",
        r"web: 1 jsonl \(gzip\), ",
        r"old: 1 parquet, ",
        r"plan +[0-9a-f]{16}: \d+ units of about 39.06 KiB",
        r"1 files can't be divided, the largest ",
        r"rules +documents of 3 or more tokens",
        r"rules +validation: 0.1 of the documents",
        r"end token \d+ '<\|end\|>'",
        r"engine +gigatoken: equal to tokenizers on ",
        r"about \S+ tokens, .* in \d+ shards of at most 128 MiB",
        r"s of CPU .* cores of this machine",
        r"from .* of this job's text.* an estimate, not a promise",
    ):
        assert re.search(words, said), words


def test_a_dry_run_names_the_malformed_rows_that_it_meets(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"text": "fine"}', '{"body": "x"}', '{"text": 5}']
    (tmp_path / "bad.ndjson").write_text("\n".join([*rows, ""]))
    assert tokenize.main([*command, "--input", f"bad={tmp_path}/bad.ndjson"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"bad rows +2 of the first [\d,]+ rows looked at; the first: .*bad\.ndjson", said
    )
    assert "no field 'text'" in said


def test_a_dry_run_says_where_one_row_group_is_larger_than_units(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"text": [f"{n:064}" for n in range(5000)]})
    for rows, words in ((5000, r"c\.parquet has 1 row groups, the largest of "), (50, "")):
        pq.write_table(table, tmp_path / "c.parquet", compression="none", row_group_size=rows)
        assert tokenize.main(command) == 0
        said = capsys.readouterr().out
        assert re.search(words, said)
        assert ("row groups" in said) == bool(words)


def test_the_estimate_comes_from_units_all_over_the_plan(command: list[str]) -> None:
    estimate = preview(parse_options(command))
    measured = estimate.measured
    total = 3 * sum(len(text) for text in TEXTS)
    assert len(estimate.plan.units) > 8
    # The sample ends with a unit's first batch, and all texts are alike.
    assert 0.05 < measured.text_bytes / total <= 1
    tokens = measured.tokens / measured.text_bytes * total
    ends = 3 * len(TEXTS)
    assert ends < tokens < total + ends


def test_a_dry_run_ends_with_what_would_stop_the_job(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tokenize.main([*command, "--text-column", "body"]) == 1
    assert "body" in capsys.readouterr().err


def test_the_job_itself_refuses_to_be_a_dry_run() -> None:
    with pytest.raises(StokerError, match="preview"):
        run(Options(inputs=("a",), output="o", tokenizer="t", dry_run=True))
