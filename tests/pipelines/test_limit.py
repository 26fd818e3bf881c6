"""`--limit`: the first documents of each source, and nothing behind them is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inputs import find_inputs
from pipelines.limit import first_pieces
from pipelines.options import Options, ReadOptions
from pipelines.plan import Slice, join_pieces
from pipelines.prepare import prepare
from pipelines.read import read_slice, read_unit
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

TEXTS = [f"document {n} {'x' * (n % 50)}" for n in range(1000)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two JSONL files with a bad row in each ten, a Parquet and a .gz; 1,000 documents each."""
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    dirty = "".join(line + ("oops\n" if n % 10 == 0 else "") for n, line in enumerate(lines))
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(dirty)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "c.parquet", row_group_size=70)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return tmp_path


def first_texts(names: list[str], limit: int, piece_bytes: int = 5_000) -> list[tuple[str, str]]:
    """(source, text) of what the units of these first slices hold."""
    inputs = find_inputs(names)
    pieces = first_pieces(inputs, limit, ReadOptions(), piece_bytes)
    return [
        (unit.source, text)
        for unit in join_pieces(pieces, 3 * piece_bytes)
        for batch in read_unit(unit, ReadOptions())
        for text in batch.documents.to_pylist()
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "c.parquet", "d.jsonl.gz"])
@pytest.mark.parametrize("limit", [1, 69, 70, 71, 500, 999, 1000, 1001])
def test_the_first_documents_of_a_file_are_taken_whatever_the_cuts(
    name: str, limit: int, corpus: Path
) -> None:
    found = [text for _, text in first_texts([str(corpus / name)], limit)]
    assert found == TEXTS[:limit]


def test_each_source_has_its_own_first_documents_over_its_files_by_name(corpus: Path) -> None:
    names = [f"web={corpus}/b.jsonl", f"web={corpus}/a.jsonl", f"old={corpus}/c.parquet"]
    found = first_texts(names, 1100)
    assert [text for source, text in found if source == "old"] == TEXTS
    assert [text for source, text in found if source == "web"] == TEXTS + TEXTS[:100]


def test_nothing_behind_the_last_document_is_opened(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Slice] = []

    def watched(piece: Slice, reading: ReadOptions) -> object:
        opened.append(piece)
        return read_slice(piece, reading)

    monkeypatch.setattr("pipelines.limit.read_slice", watched)
    first_pieces(find_inputs([str(corpus)]), 20, ReadOptions(), 5_000)
    assert [(Path(piece.uri).name, piece.start) for piece in opened] == [("a.jsonl", 0)]


def test_a_plan_with_a_limit_names_the_files_it_reads_and_no_other_can_change_it(
    corpus: Path,
) -> None:
    (corpus / "tokenizer.json").write_text(blob(pair_tokenizer(merged="ab")))
    options = Options(
        inputs=(str(corpus / "*.jsonl"), str(corpus / "*.parquet")),
        output="unused",
        tokenizer=str(corpus / "tokenizer.json"),
        end_token="<|end|>",
        limit=1500,
    )
    plan, _ = prepare(options)
    assert [Path(item.uri).name for item in plan.inputs] == ["a.jsonl", "b.jsonl"]
    (corpus / "e.parquet").write_bytes((corpus / "c.parquet").read_bytes())
    assert prepare(options)[0].id == plan.id
    with (corpus / "b.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    assert prepare(options)[0].id != plan.id
