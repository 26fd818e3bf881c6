"""Malformed rows: the same ten are named whatever the order in which units end, none is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import write
from pipelines.choose import Choice
from pipelines.inputs import find_inputs
from pipelines.job import make_job, run
from pipelines.options import Options, ReadOptions
from pipelines.plan import cut_units, make_plan
from pipelines.read import SAMPLE_BYTES, BadRow, Batch, read_unit
from pipelines.record import Record
from pipelines.summary import Summary
from pipelines.tokenize import main
from pipelines.tokenizer import Tokenizer, load_tokenizer
from pipelines.write import PLACES_SHOWN, run_unit
from shards.errors import StokerError
from shards.format import FORMAT_VERSION
from shards.receipt import Counts, Receipt
from shards.verify import verify
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

MIB = 1 << 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(blob(pair_tokenizer(merged="Ġsomewrd")))
    return load_tokenizer(str(path), "<|end|>")


@pytest.fixture
def tokenize(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Summary]:
    def start(*inputs: Path, **options: Any) -> Summary:
        options = {"end_token": "<|end|>", "output": str(tmp_path / "out"), **options}
        return run(Options(inputs=tuple(map(str, inputs)), tokenizer=tokenizer.name, **options))

    return start


# --- which rows are named ----------------------------------------------------------------------


def one_run(
    folder: Path, tokenizer: Tokenizer, bad: list[int], budget: int, order: list[int]
) -> str:
    """The error of a job whose units, of one file each, have so many bad rows and end in `order`.

    A unit with more than the budget ends without a receipt, as `start_unit` does it.
    """
    inputs = folder / "inputs"
    inputs.mkdir(exist_ok=True)
    for number in range(len(bad)):
        (inputs / f"{number:02}.jsonl").write_text("x")
    options = Options(
        inputs=(str(inputs),),
        output=str(folder / f"out-{'-'.join(map(str, order))}"),
        tokenizer="",
        unit_bytes=1,
        max_bad_rows=budget,
    )
    plan = make_plan(find_inputs(options.inputs), options, "", 0, FORMAT_VERSION)
    record = Record(options, plan, tokenizer)
    record.begin()
    for number in order:
        rows = [BadRow(f"{number:02}.jsonl", f"line {i}", "odd", "") for i in range(bad[number])]
        try:
            if len(rows) > budget:
                record.stop(number, tuple(map(str, rows[:PLACES_SHOWN])))
                continue
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
            record.store.write(f"quarantine/{plan.id}/{number:08d}.jsonl", lines.encode())
            counts = Counts(rows=len(rows), quarantined=len(rows))
            record.add(Receipt(unit=number, counts=counts, shards=()))
        except StokerError as error:
            return str(error)
    try:
        record.check_budget(finished=True)
    except StokerError as error:
        return str(error)
    return ""


@settings(max_examples=60)
@given(data=st.data(), bad=st.lists(st.integers(0, 8), min_size=1, max_size=7))
def test_the_rows_named_do_not_depend_on_the_order_in_which_units_end(
    data: st.DataObject,
    bad: list[int],
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    budget = data.draw(st.integers(0, 12))
    orders = [list(range(len(bad))), data.draw(st.permutations(range(len(bad))))]
    folder = tmp_path_factory.mktemp("orders")
    told, told_otherwise = (one_run(folder, tokenizer, bad, budget, order) for order in orders)
    assert told == told_otherwise
    rows = [f"{n:02}.jsonl line {i}: odd" for n, count in enumerate(bad) for i in range(count)]
    assert bool(told) == (len(rows) > budget)
    if told:
        named = [line.strip() for line in told.splitlines()[1:]]
        assert named == rows[: len(named)]
        assert len(named) >= min(PLACES_SHOWN, budget + 1)


# --- none is lost ------------------------------------------------------------------------------


def test_rows_are_counted_apart_from_what_becomes_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\noops\n{"text": null}\n')
    (tmp_path / "b.txt").write_bytes(b"a\n\n\xff\n")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "c.parquet")
    [unit] = cut_units(find_inputs([str(tmp_path)]), MIB, ReadOptions(text_split="line"))
    batches = list(read_unit(unit, ReadOptions(text_split="line")))
    assert [batch.rows for batch in batches] == [3, 3, 2]
    assert [len(batch.documents) for batch in batches] == [1, 2, 1]
    assert [len(batch.bad) for batch in batches] == [2, 1, 1]


def test_a_row_that_a_reader_loses_is_missed(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 50)
    options = Options(inputs=(str(tmp_path),), output=str(tmp_path / "out"), tokenizer="")
    plan = make_plan(find_inputs(options.inputs), options, "", tokenizer.end_id, FORMAT_VERSION)
    job = make_job(Record(options, plan, tokenizer), Choice("tokenizers", ""))
    assert run_unit(plan.units[0], job).counts.add_up

    def lossy(*arguments: Any) -> Iterator[Batch]:
        for batch in read_unit(*arguments):
            yield replace(batch, documents=batch.documents.slice(1))

    monkeypatch.setattr(write, "read_unit", lossy)
    # Such a receipt stops the commit: tests/shards/test_commit.py.
    assert not run_unit(plan.units[0], job).counts.add_up


SAMPLES = {
    "a.jsonl": (
        b'{"text": "good"}\n{"text": "cut\n{"body": 1}\n{"text": null}\n{"text": 5}\n'
        b'{"text": "\xff"}\n{"text": "\\ud800"}\n["x"]\n\n',
        7,
    ),
    "b.txt": (b"\xff\xfe not text", 1),
    "c.jsonl": (b"", 0),
    "d.jsonl": (b"\n\n", 0),
}


@pytest.mark.usefixtures("local_ray")
def test_every_row_of_every_format_is_a_document_or_set_apart_with_its_place(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, (content, _) in SAMPLES.items():
        (inputs / name).write_bytes(content)
    texts = pa.array([b"good", None, b"\xff" * 1000, b""], pa.binary())
    pq.write_table(pa.table({"text": texts.view(pa.string())}), inputs / "e.parquet")
    with pa.ipc.new_stream(str(inputs / "f.arrow"), pa.schema([("text", pa.string())])) as stream:
        stream.write_table(pa.table({"text": pa.array(["good", None])}))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), inputs / "g.parquet")
    summary = tokenize(inputs, max_bad_rows=11)
    counts = summary.counts
    assert (counts.rows, counts.documents, counts.quarantined) == (15, 4, 11)
    [path] = (tmp_path / "out" / "quarantine").rglob("*.jsonl")
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert {tuple(row) for row in rows} == {("uri", "place", "reason", "sample")}
    by_name = [Path(row["uri"]).name for row in rows]
    assert by_name == [*["a.jsonl"] * 7, "b.txt", *["e.parquet"] * 2, "f.arrow"]
    assert all(row["place"] and row["reason"] for row in rows)
    assert all(len(row["sample"].encode()) <= SAMPLE_BYTES for row in rows)
    with pytest.raises(StokerError, match="more malformed rows") as caught:
        tokenize(inputs, max_bad_rows=10, output=str(tmp_path / "other"))
    assert len(str(caught.value).splitlines()) == 11


@pytest.mark.usefixtures("local_ray")
def test_the_command_ends_with_1_and_the_first_ten_places(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        lines = ['{"text": "good"}', *["oops"] * 5] * 2
        (tmp_path / f"{number}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    arguments = ["--input", f"{tmp_path}/*.jsonl", "--output", f"{tmp_path}/out"]
    arguments += ["--tokenizer", tokenizer.name, "--end-token", "<|end|>", "--unit-bytes", "1"]
    assert main([*arguments, "--max-bad-rows", "25"]) == 1
    said = capsys.readouterr().err
    first, *places = said[said.index("error: ") :].splitlines()
    assert first.startswith(
        "error: more malformed rows than --max-bad-rows 25 allows; with a larger"
    )
    starts = [17 + 5 * i for i in range(5)] + [59 + 5 * i for i in range(5)]
    where = [place.split(": ")[0].strip() for place in places]
    assert where == [f"{tmp_path}/0.jsonl line at byte {start}" for start in starts]
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- extremes ----------------------------------------------------------------------------------


def test_a_document_too_long_for_the_reference_engine_is_set_apart(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "short"}\n{"text": "' + "long " * 300 + '"}\n')
    [unit] = cut_units(find_inputs([str(tmp_path)]), MIB)
    [batch] = read_unit(unit, ReadOptions(longest=1000))
    assert batch.documents.to_pylist() == ["short"]
    assert batch.rows == 2
    [row] = batch.bad
    assert (row.place, row.sample) == ("line at byte 18", ("long " * 40))
    assert "1.465 KiB of text, more than the 1000 B that the engine" in row.reason
    assert batch.place(0) == f"{tmp_path}/a.jsonl line at byte 0"


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_document_of_200_mb_and_a_million_empty_ones_are_tokenized(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    long = "some words in a very long line " * (200_000_000 // 31)
    pq.write_table(pa.table({"text": ["short", long, "short"]}), tmp_path / "long.parquet")
    empty = pa.array([""] * 1_000_000)
    pq.write_table(pa.table({"text": empty}), tmp_path / "empty.parquet")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n' * 1_000_000)
    summary = tokenize(*(tmp_path / n for n in ("long.parquet", "empty.parquet", "empty.jsonl")))
    assert summary.counts.rows == summary.counts.documents == 2_000_003
    assert summary.counts.text_bytes == len(long) + 10
    assert summary.usage.peak_rss < 3_000 * MIB
    verify(str(tmp_path / "out"))


@pytest.mark.usefixtures("local_ray")
def test_the_reference_engine_is_not_given_a_document_it_has_no_memory_for(
    tokenize: Callable[..., Summary], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": ["short", "long " * (4 * MIB)]}), tmp_path / "a.parquet")
    with pytest.raises(StokerError, match=r"row 1: 20 MiB of text, more than the 16 MiB that"):
        tokenize(tmp_path / "a.parquet", engine="tokenizers")
    again = tokenize(tmp_path / "a.parquet", output=str(tmp_path / "fast"))
    assert (again.engine, again.counts.documents) == ("gigatoken", 2)
