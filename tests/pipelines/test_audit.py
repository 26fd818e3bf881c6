"""The audit: what the fast engine gets wrong fails the job, with the place and the ids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import audit, job, tasks, write
from pipelines.allow import SPLITS
from pipelines.audit import Draw, Drawn, check
from pipelines.behind import Behind
from pipelines.encode import Encoded
from pipelines.fast import FastEngine
from pipelines.inputs import find_inputs
from pipelines.options import Options, ReadOptions
from pipelines.plan import Unit, cut_units
from pipelines.tasks import Outcome, run_units
from pipelines.write import Job, run_unit, start_unit
from shards.dataset import open_dataset
from shards.errors import StokerError
from tests.pipelines.texts import documents
from tests.pipelines.tokenizers_by_hand import blob, changed, pair_tokenizer

HAND = blob(pair_tokenizer(SPLITS["Llama 3"], merged="Ġabcde"))
TEXTS = [f"abc {n} cab dead" for n in range(500)]


class Broken:
    """A fast engine that writes another id into documents with a certain word."""

    name = "gigatoken"

    def __init__(self, word: str) -> None:
        self._engine, self._word = FastEngine(HAND, "text"), word

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        offsets, ids = self._engine.encode(texts)
        ids = ids.copy()
        for number, text in enumerate(texts.to_pylist()):
            if self._word in text:
                ids[offsets[number] + 2] += 1
        return offsets, ids


def a_job(output: Path, share: float) -> Job:
    return Job(
        plan="0123456789abcdef",
        output=str(output),
        engine="gigatoken",
        blob=HAND,
        special_tokens="text",
        special_texts=(),
        end_id=0,
        dtype="uint16",
        reading=ReadOptions(),
        shard_bytes=1 << 20,
        max_bad_rows=0,
        audit=share,
    )


def _number(first: int, number: int) -> str:
    return str(first + number)


def draw_from(batches: list[list[str]], share: float, unit: int = 0) -> list[str]:
    """Places of the documents that are drawn from these batches, numbered over all of them."""
    draw = Draw("0123456789abcdef", unit, share)
    first = 0
    for texts in batches:
        offsets = np.arange(len(texts) + 1, dtype=np.int64)
        ids = np.arange(first, first + len(texts), dtype=np.uint32)
        draw.take(documents(*texts), (offsets, ids), partial(_number, first))
        first += len(texts)
    assert [drawn.ids.tolist() for drawn in draw.drawn] == [[int(d.place)] for d in draw.drawn]
    return [drawn.place for drawn in draw.drawn]


@given(cuts=st.lists(st.integers(0, 2000), max_size=8), share=st.sampled_from([0.01, 0.1]))
def test_the_same_documents_are_drawn_however_a_unit_is_cut_into_batches(
    cuts: list[int], share: float
) -> None:
    texts = [str(n) for n in range(2000)]
    borders = [0, *sorted(cuts), 2000]
    batches = [texts[a:b] for a, b in pairwise(borders)]
    assert draw_from(batches, share) == draw_from([texts], share)


def test_the_share_that_is_drawn_is_the_share_that_was_asked_for() -> None:
    texts = [""] * 100_000
    drawn = [draw_from([texts], 1e-3, unit) for unit in range(20)]
    assert 1800 < sum(map(len, drawn)) < 2200
    assert drawn[0] != drawn[1], "units draw apart"
    assert draw_from([texts], 0.0) == []


def test_a_document_above_the_bound_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LARGEST_AUDITED", 8)
    texts = ["short", "much too long"] * 500
    places = [int(place) for place in draw_from([texts], 0.1)]
    assert places
    assert all(place % 2 == 0 for place in places)


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        ([1, 2, 9, 4], r"from token 2 on: \[1 2 9 4\], but should be \[1 2 3 4\]"),
        ([1, 2, 3], r"from token 3 on: \[1 2 3\], but should be \[1 2 3 4\]"),
        ([1, 2, 3, 4, 5], r"from token 4 on: \[1 2 3 4 5\], but should be \[1 2 3 4\]"),
        ([], r"from token 0 on: \[\], but should be \[1 2 3 4\]"),
    ],
)
def test_the_first_difference_is_told_with_place_ids_and_what_to_do(
    ids: list[int], shown: str
) -> None:
    class Reference:
        name = "tokenizers"

        def encode(self, texts: pa.LargeStringArray) -> Encoded:
            return np.array([0, 4]), np.array([1, 2, 3, 4], np.uint32)

    drawn = Drawn("a.jsonl line at byte 17", "x", np.array(ids, np.uint32))
    with pytest.raises(StokerError, match=shown) as caught:
        check([drawn], Reference)
    assert str(caught.value).startswith("a.jsonl line at byte 17: gigatoken's ids differ")
    assert "--engine tokenizers" in str(caught.value)


def test_nothing_drawn_asks_for_no_reference() -> None:
    assert check([], lambda: pytest.fail("loaded for nothing")) == 0


def test_a_broken_engine_is_found_in_the_unit_and_named_by_row_and_no_receipt_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    [unit] = cut_units(find_inputs([str(tmp_path / "a.parquet")], "auto"), 1 << 30)
    draw = Draw("0123456789abcdef", 0, 0.05)
    with Behind() as behind:
        start_unit(unit, a_job(tmp_path / "fine", 0.05), behind, draw=draw).result()
    assert len(draw.drawn) > 5
    row = draw.drawn[0].place.rpartition(" ")[2]
    assert draw.drawn[0].text == TEXTS[int(row)]
    monkeypatch.setattr(write, "engine_for", lambda *_: Broken("dead"))
    with pytest.raises(StokerError, match=rf"a\.parquet row {row}: .* from token 2 on"):
        run_unit(unit, a_job(tmp_path / "broken", 0.05))
    assert list(tmp_path.glob("fine/receipts/*/*"))
    assert not list(tmp_path.glob("broken/receipts/*/*"))


@pytest.fixture
def tokenize(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "tokenizer.json").write_text(HAND)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(rows)
    common: dict[str, Any] = {
        "inputs": (str(tmp_path / "a.jsonl"),),
        "tokenizer": str(tmp_path / "tokenizer.json"),
        "end_token": "<|end|>",
        "unit_bytes": 5000,
    }
    return lambda name, **more: job.run(Options(output=str(tmp_path / name), **common, **more))


def shards_of(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.glob("shards/*/*")}


@pytest.mark.usefixtures("local_ray")
def test_a_job_says_how_many_documents_it_audited_and_the_audit_changes_no_byte(
    tokenize: Callable[..., Any], tmp_path: Path
) -> None:
    audited, silent = tokenize("audited", audit=0.1), tokenize("silent", audit=0.0)
    assert audited.units > 2
    assert 20 < audited.usage.audited < 100
    assert f"audit       {audited.usage.audited} documents encoded again: equal" in str(audited)
    [report] = (tmp_path / "audited").glob("logs/*/report.json")
    assert json.loads(report.read_text())["audited"] == audited.usage.audited
    assert silent.usage.audited == 0
    assert "encoded again" not in str(silent)
    assert audited.plan == silent.plan
    assert shards_of(tmp_path / "audited") == shards_of(tmp_path / "silent")
    assert tokenize("slow", audit=0.1, engine="tokenizers").usage.audited == 0, "nothing to compare"


@pytest.mark.usefixtures("local_ray")
def test_a_job_whose_audit_fails_commits_nothing_and_fails_again_when_it_is_started_again(
    tokenize: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks run in this process, since a worker's engine can't be broken from here."""

    def broken(units: Sequence[Unit], a_job: Job, meter: Any) -> Iterator[Outcome]:
        with monkeypatch.context() as patch:
            patch.setattr(write, "engine_for", lambda *_: Broken("dead"))
            for unit in units:
                yield from tasks._run([unit], a_job, meter)

    monkeypatch.setattr(job, "run_units", broken)
    for _ in range(2):
        with pytest.raises(StokerError, match=r"a\.jsonl line at byte \d+: gigatoken's ids differ"):
            tokenize("out", audit=0.1)
        assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(job, "run_units", run_units)
    summary = tokenize("out", audit=0.1)
    assert summary.skipped < summary.units, "no receipt vouches for the unit that failed"


@pytest.mark.usefixtures("local_ray")
def test_the_reason_why_the_reference_encodes_is_printed_and_kept(
    tmp_path: Path, tokenize: Callable[..., Any]
) -> None:
    """With a tokenizer whose shape isn't let in, the whole job through."""
    stripping = changed(json.loads(HAND), "added_tokens.2.lstrip", True)
    (tmp_path / "tokenizer.json").write_text(blob(stripping))
    summary = tokenize("out")
    reason = "its added token '[PLAIN]' is lstrip"
    assert f"engine      tokenizers: {reason}" in str(summary)
    manifest = open_dataset(str(tmp_path / "out")).manifest
    assert (manifest.engine, manifest.engine_reason) == ("tokenizers", reason)
    with pytest.raises(StokerError, match=re.escape(reason)):
        tokenize("other", engine="gigatoken")


@pytest.mark.parametrize("share", [-0.1, 0.2, float("nan")])
def test_a_share_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(StokerError, match=r"a share of documents from 0 to 0\.1"):
        Options(inputs=("a",), output="b", tokenizer="c", audit=share)
