"""What becomes of documents inside a unit: whole jobs, and the same bytes each time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from loaders import TokenDataset
from pipelines.choose import Choice
from pipelines.dry_run import preview
from pipelines.job import make_job, run
from pipelines.options import Options
from pipelines.prepare import prepare
from pipelines.record import Record
from pipelines.summary import Summary
from pipelines.transform import find_transform
from pipelines.write import TooManyBadRows, run_unit
from shards.__main__ import main as shards_command
from shards.dataset import open_dataset
from shards.errors import StokerError
from shards.manifest import DocumentRules
from shards.store import open_store
from shards.verify import verify
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

BEGIN, END = "<|pad|>", "<|end|>"
TEXTS = [f"{'no' if n % 5 == 0 else ''}document {n} {'word ' * (n % 9)}" for n in range(400)]
YEARS = [None if n % 7 == 0 else n % 3 for n in range(400)]

TIDY = "tests.pipelines.transforms:tidy"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    return str(path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts and their years as Parquet, then as JSON lines of which three are bad."""
    folder = tmp_path_factory.mktemp("corpus")
    table = pa.table({"text": TEXTS, "year": pa.array(YEARS, pa.int64())})
    pq.write_table(table, folder / "a.parquet", row_group_size=90)
    lines = [json.dumps({"text": t, "year": y}) for t, y in zip(TEXTS, YEARS, strict=True)]
    (folder / "b.jsonl").write_text("\n".join([*lines, "oops", "{}", "[]"]) + "\n")
    return folder


def options_of(corpus: Path, tokenizer: str, output: Path, **changes: Any) -> Options:
    changes = {"end_token": END, "max_bad_rows": 3, "unit_bytes": 8_000, **changes}
    return Options(inputs=(str(corpus),), output=str(output), tokenizer=tokenizer, **changes)


Tokenize = Callable[..., Summary]


@pytest.fixture
def tokenize(local_ray: None, corpus: Path, tokenizer: str, tmp_path: Path) -> Tokenize:
    """Runs the job over the corpus; what a test doesn't name is chosen here."""

    def start(folder: Path = corpus, output: str = "out", **changes: Any) -> Summary:
        return run(options_of(folder, tokenizer, tmp_path / output, **changes))

    return start


def documents_of(uri: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the split's shards, in the order of the stream."""
    dataset = open_dataset(str(uri))
    found: list[dict[str, Any]] = []
    for shard in dataset.stream(split).shards.tolist():
        data = dataset.store.read(dataset.path(shard))
        found.extend(pa.ipc.open_file(data).read_all().to_pylist())
    return found


# --- whole jobs --------------------------------------------------------------------------------


def test_all_rules_together_do_what_each_says(
    tokenize: Tokenize, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = {
        "keep_columns": ("year",),
        "prepend_bos": True,
        "begin_token": BEGIN,
        "min_tokens": 16,
        "max_tokens": 40,
        "shuffle_documents": 7,
        "validation": 0.1,
        "transform": TIDY,
        "shard_bytes": 2_000,
    }
    summary = tokenize(**rules)

    reference = Tokenizer.from_file(tokenizer)
    begin, end = (int(reference.token_to_id(text) or 0) for text in (BEGIN, END))
    expected: Counter[tuple[tuple[int, ...], int | None]] = Counter()
    short = long = 0
    for text, year in zip(TEXTS, YEARS, strict=True):
        if text.startswith("no"):
            continue
        ids = reference.encode(text.upper(), add_special_tokens=False).ids
        copies = 2 * (1 + (year == 1))
        short += copies * (len(ids) < 16)
        long += copies * (len(ids) > 40)
        if 16 <= len(ids) <= 40:
            expected[(begin, *ids, end), year] += copies
    sides = {split: documents_of(tmp_path / "out", split) for split in ("train", "validation")}
    rows = [(tuple(row["input_ids"]), row["year"]) for some in sides.values() for row in some]
    assert short > 5
    assert long > 5
    assert Counter(rows) == expected
    # Both files hold each text, and some rows were doubled: all copies of it are on one side.
    texts = [{tuple(row["input_ids"]) for row in some} for some in sides.values()]
    assert not texts[0] & texts[1]
    assert 0.03 < len(sides["validation"]) / len(rows) < 0.2
    assert rows != sorted(rows, key=lambda row: row[0])

    counts = summary.counts
    assert (counts.rows, counts.quarantined) == (803, 3)
    assert (counts.transform_in, counts.transform_out) == (800, short + long + len(rows))
    assert (counts.dropped_short, counts.dropped_long) == (short, long)
    assert counts.dropped == short + long
    assert counts.documents == len(rows)
    assert counts.tokens == sum(len(ids) for ids, _ in rows)
    assert f"{short:,} shorter than 16 tokens, {long:,} longer than 40 tokens" in str(summary)

    verify(str(tmp_path / "out"))
    dataset = TokenDataset(str(tmp_path / "out"), seq_len=16, split="validation")
    assert len(dataset) == sum(len(row["input_ids"]) for row in sides["validation"]) // 16
    assert tokenize(**rules).nothing_to_do

    assert shards_command(["inspect", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for words in (
        rf"begin token +{begin} '<\|pad\|>'",
        rf"end token +{end} '<\|end\|>'",
        rf"803 read - 800 into the transform \+ {counts.transform_out} out of it = ",
        rf"dropped {short + long}: {short} shorter than 16 tokens, {long} longer than 40 tokens",
        r"rules +\S+: documents of 16 to 40 tokens",
        r"rules +\S+: validation: 0.1 of the documents",
        r"rules +\S+: documents shuffled inside each unit, seed 7",
        rf"rules +\S+: transform {TIDY}, source sha256 {find_transform(TIDY).sha256}",
        r"rules +\S+: columns kept: year \(int64\)",
        r"validation +default ",
    ):
        assert re.search(words, told), words
    assert shards_command(["sample", str(tmp_path / "out")]) == 0
    assert re.search(r"^    year: (0|1|2|None)$", capsys.readouterr().out, re.M)


def test_validation_documents_stay_when_files_come_and_change_places(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    write = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    other = "".join(json.dumps({"text": f"new {n}"}) + "\n" for n in range(300))
    for name, files in (("old", {"b": write}), ("new", {"a": other, "c": write, "d": "\n"})):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / f"{file}.jsonl").write_text(content)
    held_out = []
    for name, size in (("old", 8_000), ("new", 30_000)):
        tokenize(tmp_path / name, f"out-{name}", validation=0.05, unit_bytes=size)
        rows = documents_of(tmp_path / f"out-{name}", "validation")
        held_out.append({tuple(row["input_ids"]) for row in rows})
    assert len(held_out[0]) > 5
    assert held_out[0] < held_out[1]
    train = {tuple(row["input_ids"]) for row in documents_of(tmp_path / "out-new", "train")}
    assert not held_out[0] & train


def test_a_limit_takes_the_first_documents_and_names_itself(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    summary = tokenize(limit=450)
    assert summary.counts.documents == 450
    assert len(documents_of(tmp_path / "out", "train")) == 450
    [rules] = open_dataset(str(tmp_path / "out")).manifest.rules.values()
    assert rules == DocumentRules(limit=450)


def test_no_token_around_documents_drops_the_empty_ones_and_says_so(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    texts = ["", "a", "", "b c"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "in" / "a.jsonl").write_text(lines)
    summary = tokenize(tmp_path / "in", append_eos=False, end_token=None)
    assert (summary.counts.documents, summary.counts.dropped_empty) == (2, 2)
    assert "dropped 2: 2 without a token" in str(summary)
    assert open_dataset(str(tmp_path / "out")).manifest.tokenizer.end_token is None


def test_a_share_of_bad_rows_is_judged_at_the_end_and_a_larger_one_goes_on_from_there(
    tokenize: Tokenize, tmp_path: Path
) -> None:
    with pytest.raises(StokerError) as caught:
        tokenize(max_bad_rows=0.003)
    first, *places = str(caught.value).splitlines()
    assert "--max-bad-rows 0.3% allows: 3 of 803; with a larger one" in first
    assert len(places) == 3
    assert not (tmp_path / "out" / "manifest.json").exists()
    summary = tokenize(max_bad_rows=0.004)
    assert summary.skipped == summary.units
    assert summary.counts.quarantined == 3


def test_a_transform_that_fails_or_is_not_on_the_workers_says_so(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tests.pipelines.transforms:fails"
    with pytest.raises(StokerError, match=f"--transform {name} failed: RuntimeError: no good"):
        tokenize(transform=name)
    (tmp_path / "here_alone.py").write_text("def same(table):\n    return table\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StokerError, match=r"no module 'here_alone' to import on .*, a worker"):
        tokenize(transform="here_alone:same", output="other")


# --- the same bytes, without Ray ---------------------------------------------------------------


def test_a_changed_transform_is_another_plan(
    corpus: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing.py"
    module.write_text("def same(table):\n    return table\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = options_of(corpus, tokenizer, tmp_path / "out", transform="changing:same")
    before = prepare(options)[0].id
    assert prepare(options)[0].id == before
    module.write_text("def same(table):\n    return table.slice(1)\n")
    assert prepare(options)[0].id != before


@pytest.mark.parametrize(
    "change",
    [
        {"keep_columns": ("year",)},
        {"keep_columns": ("year:string",)},
        {"append_eos": False, "end_token": None},
        {"prepend_bos": True, "begin_token": BEGIN},
        {"min_tokens": 1},
        {"max_tokens": 1},
        {"shuffle_documents": 0},
        {"validation": 0.005},
        {"transform": TIDY},
        {"limit": 1},
    ],
)
def test_every_rule_is_part_of_the_plan(
    change: dict[str, Any], corpus: Path, tokenizer: str, tmp_path: Path
) -> None:
    plain, other = (
        prepare(options_of(corpus, tokenizer, tmp_path / "out", **changes))[0].id
        for changes in ({}, change)
    )
    assert plain != other


def test_what_changes_no_byte_is_not(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    plain, other = (
        prepare(options_of(corpus, tokenizer, tmp_path / "out", **changes))[0].id
        for changes in ({}, {"max_bad_rows": 0.5, "overwrite": True, "dry_run": True})
    )
    assert plain == other


def test_a_unit_that_is_mostly_bad_ends_a_job_whatever_its_share(
    tokenizer: str, tmp_path: Path
) -> None:
    lines = '{"body": "a wrong --text-column"}\n' * 11_000
    (tmp_path / "a.jsonl").write_text(lines + '{"text": "fine"}\n' * 100)
    options = options_of(tmp_path / "a.jsonl", tokenizer, tmp_path / "out", max_bad_rows=0.1)
    options = replace(options, unit_bytes=1 << 20)
    plan, made = prepare(options)
    job = make_job(Record(options, plan, made), Choice("tokenizers", ""))
    with pytest.raises(TooManyBadRows) as caught:
        run_unit(plan.units[0], job)
    assert len(caught.value.rows) == 10


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"limit": 5}, {}, r"just the first 5 documents \(--limit\)"),
        ({}, {"keep_columns": ("year",)}, "columns it keeps are none, these would be year"),
        (
            {"keep_columns": ("year",)},
            {},
            r"columns it keeps are year \(int64\), these would be none",
        ),
    ],
)
def test_what_would_not_fit_behind_a_dataset_is_not_appended(
    before: dict[str, Any],
    after: dict[str, Any],
    words: str,
    corpus: Path,
    tokenizer: str,
    tmp_path: Path,
) -> None:
    first = options_of(corpus / "a.parquet", tokenizer, tmp_path / "out", **before)
    plan, made = prepare(first)
    record = Record(first, plan, made)
    choice = Choice("tokenizers", "")
    for unit in plan.units:
        record.add(run_unit(unit, make_job(record, choice)))
    record.commit(choice)
    more = options_of(corpus, tokenizer, tmp_path / "out", append=True, **after)
    with pytest.raises(StokerError, match=f"can't be appended to: .*{words}"):
        prepare(more)
    instead = preview(replace(more, append=False, overwrite=True))
    assert (
        instead.state == f"to be written instead of the {record.counts.documents} documents there"
    )


def written(options: Options, *, twice: bool) -> dict[str, bytes]:
    """Runs the units, or runs them backwards and then some again; what is there, by key."""
    plan, tokenizer = prepare(options)
    job = make_job(Record(options, plan, tokenizer), Choice("gigatoken", ""))
    for unit in (*plan.units[::-1], *plan.units[::3]) if twice else plan.units:
        run_unit(unit, job)
    store = open_store(options.output)
    return {entry.key: store.read(entry.key) for entry in store.list()}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "keep_columns": st.sampled_from([("year",), ("year:float",)]),
            "min_tokens": st.integers(1, 20),
            "max_tokens": st.integers(20, 40),
            "shuffle_documents": st.integers(0, 3),
            "validation": st.floats(0.01, 0.9),
            "shard_bytes": st.integers(500, 20_000),
            "limit": st.integers(1, 600),
        },
    ),
    transform=st.booleans(),
    bare=st.booleans(),
)
def test_any_rules_give_the_same_bytes_however_often_and_in_which_order_units_run(
    changes: dict[str, Any],
    transform: bool,
    bare: bool,
    corpus: Path,
    tokenizer: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if transform:
        changes |= {"transform": TIDY, "keep_columns": ("year",)}
    if bare:
        changes |= {"append_eos": False, "end_token": None}
    folder = tmp_path_factory.mktemp("twice")
    once, twice = (
        written(options_of(corpus, tokenizer, folder / str(again), **changes), twice=again)
        for again in (False, True)
    )
    assert once == twice
    assert once
