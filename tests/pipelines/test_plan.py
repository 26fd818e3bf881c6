"""The plan: even units that hold everything once, and an id that changes when the bytes could."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import plan as plan_module
from pipelines.inputs import Input
from pipelines.options import Options, ReadOptions
from pipelines.plan import Plan, automatic_unit_bytes, cut_units, make_plan

OPTIONS = Options(inputs=("x",), output="out", tokenizer="t")


def file(
    name: str, size: int, source: str = "web", format: str = "jsonl", compression: str = ""
) -> Input:
    return Input(source, f"/data/{name}", size, "etag", format, compression)


def plan(inputs: list[Input], **changes: object) -> Plan:
    return make_plan(inputs, replace(OPTIONS, **changes), "fingerprint", 7, 1)  # type: ignore[arg-type]


inputs = st.lists(
    st.builds(
        lambda source, number, size, kind: file(f"{number:04d}", size, source, *kind),
        st.sampled_from(["code", "web"]),
        st.integers(0, 9999),
        st.integers(0, 500),
        st.sampled_from([("jsonl", ""), ("parquet", ""), ("text", ""), ("jsonl", "gzip")]),
    ),
    max_size=12,
    unique_by=lambda item: item.uri,
).map(sorted)


@given(inputs=inputs, unit_bytes=st.integers(1, 300), split=st.sampled_from(["file", "line"]))
def test_units_hold_every_byte_once_in_order(
    inputs: list[Input], unit_bytes: int, split: str
) -> None:
    units = list(cut_units(inputs, unit_bytes, ReadOptions(text_split=split)))
    assert [unit.number for unit in units] == list(range(len(units)))
    pieces = [piece for unit in units for piece in unit.slices]
    assert [uri for uri, _ in groupby(piece.uri for piece in pieces)] == [i.uri for i in inputs]
    for item in inputs:
        own = [piece for piece in pieces if piece.uri == item.uri]
        borders = [0, *(piece.stop for piece in own)]
        assert [piece.start for piece in own] == borders[:-1]
        assert borders[-1] == item.size


@given(inputs=inputs, unit_bytes=st.integers(1, 300))
def test_units_are_of_one_source_and_not_above_the_size_unless_one_file_is(
    inputs: list[Input], unit_bytes: int
) -> None:
    source_of = {item.uri: item.source for item in inputs}
    for unit in cut_units(inputs, unit_bytes):
        assert {source_of[piece.uri] for piece in unit.slices} == {unit.source}
        assert unit.bytes <= unit_bytes or len(unit.slices) == 1


def test_a_large_file_is_cut_evenly_and_what_cannot_be_cut_is_whole() -> None:
    [a, b, c] = cut_units([file("big", 100)], 40)
    assert [unit.bytes for unit in (a, b, c)] == [33, 33, 34]
    for whole in (file("z", 100, compression="gzip"), file("t", 100, format="text")):
        assert [unit.bytes for unit in cut_units([whole], 40)] == [100]
    assert (
        len(list(cut_units([file("t", 100, format="text")], 40, ReadOptions(text_split="line"))))
        == 3
    )


def test_the_unit_size_depends_on_the_input_alone() -> None:
    assert automatic_unit_bytes(0) == 4 << 20
    assert automatic_unit_bytes(64 * (100 << 20)) == 100 << 20
    assert automatic_unit_bytes(1 << 50) == 256 << 20


BASE = [file("a", 10), file("b", 20)]


@pytest.mark.parametrize(
    "other",
    [
        plan([file("a", 10)]),
        plan([file("a", 10), file("b", 21)]),
        plan([file("a", 10), replace(file("b", 20), etag="new")]),
        plan([file("a", 10), file("b", 20, source="z")]),
        plan([file("a", 10), file("b", 20, format="text")]),
        plan(BASE, special_tokens="control"),
        plan(BASE, engine="tokenizers"),
        plan(BASE, text_column="body"),
        plan(BASE, text_split="line"),
        plan(BASE, unit_bytes=5),
        plan(BASE, shard_bytes=5),
        make_plan(BASE, OPTIONS, "another tokenizer", 7, 1),
        make_plan(BASE, OPTIONS, "fingerprint", 8, 1),
        make_plan(BASE, OPTIONS, "fingerprint", 7, 2),
    ],
)
def test_whatever_could_change_a_byte_changes_the_id(other: Plan) -> None:
    assert other.id != plan(BASE).id


def test_library_versions_are_part_of_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(BASE).id
    monkeypatch.setattr(plan_module, "version", lambda name: f"{name} 99")
    assert plan(BASE).id != before


def test_what_changes_no_byte_changes_no_id() -> None:
    same = plan(BASE, output="elsewhere", max_bad_rows=5, overwrite=True, tokenizer="same, by path")
    assert same.id == plan(BASE).id
    assert plan(BASE, unit_bytes=automatic_unit_bytes(30)).id == plan(BASE).id
