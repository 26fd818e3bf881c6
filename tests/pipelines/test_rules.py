"""The steps between reading and shards, each by itself: split, shuffle, lengths, transform."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encode import offsets_of
from pipelines.read import Batch
from pipelines.rows import Rows
from pipelines.rules import UnitRules
from pipelines.shuffle import Shuffle, shuffled
from pipelines.split import in_validation
from pipelines.transform import Transform, apply_transform, find_transform
from shards.errors import StokerError
from shards.manifest import DocumentRules
from shards.receipt import Counts

UINT16 = np.dtype(np.uint16)


def texts_of(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def rows_of(lengths: list[int]) -> Rows:
    """Documents of these lengths; ids count on, and column `number` tells them apart."""
    offsets = offsets_of(np.array(lengths, np.int64))
    numbers = pa.record_batch({"number": pa.array(range(len(lengths)), pa.int64())})
    return Rows(offsets, np.arange(offsets[-1], dtype=np.uint32), numbers)


def listed(rows: Rows) -> list[tuple[int, list[int]]]:
    """(column `number`, ids) of each document."""
    assert rows.columns is not None
    numbers = rows.columns.column("number").to_pylist()
    ends = rows.offsets.tolist()
    assert len(numbers) == len(rows)
    return [(n, rows.ids[ends[i] : ends[i + 1]].tolist()) for i, n in enumerate(numbers)]


# --- rows --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())), st.integers(0, 3))
def test_chosen_rows_keep_their_ids_columns_and_order(
    chosen: list[tuple[int, bool]], before: int
) -> None:
    rows = rows_of([before, *(length for length, _ in chosen)])
    # A view into the middle of a batch, as slices of Arrow arrays are.
    columns = rows.columns.slice(1) if rows.columns is not None else None
    view = Rows(rows.offsets[1:], rows.ids, columns)
    mask = np.array([keep for _, keep in chosen], np.bool_)
    expected = [row for row, keep in zip(listed(view), mask, strict=True) if keep]
    assert listed(view.where(mask)) == expected


# --- split -------------------------------------------------------------------------------------

CORPUS = [f"document {n}: {'words ' * (n % 7)}" for n in range(20_000)]


def test_which_documents_are_validation_never_changes() -> None:
    held_out = in_validation(texts_of(*CORPUS), 0.001)
    assert np.flatnonzero(held_out).tolist() == [
        2385,
        3639,
        3852,
        4512,
        5595,
        6621,
        7571,
        11750,
        13101,
        13172,
        13517,
        13666,
        14357,
        15062,
        15256,
        16214,
        16915,
        17305,
        17516,
        19563,
        19709,
    ], "a document that changes sides leaks validation text into training"


def test_a_document_is_on_the_same_side_wherever_it_lies() -> None:
    held_out = set(np.flatnonzero(in_validation(texts_of(*CORPUS), 0.05)).tolist())
    order = np.random.default_rng(0).permutation(len(CORPUS))
    more = ["a new file's document", *(CORPUS[number] for number in order)]
    again = in_validation(texts_of(*more).slice(1), 0.05)
    assert {int(order[place]) for place in np.flatnonzero(again)} == held_out


def test_a_larger_share_keeps_what_a_smaller_one_held_out() -> None:
    small, large = (in_validation(texts_of(*CORPUS), share) for share in (0.01, 0.2))
    assert not (small & ~large).any()
    # Binomial: 20,000 x 0.2 has a standard deviation of 57.
    assert abs(int(large.sum()) - 4_000) < 4 * 57
    assert abs(int(small.sum()) - 200) < 4 * 14


def test_no_documents_have_no_side() -> None:
    assert len(in_validation(texts_of(), 0.5)) == 0
    assert in_validation(texts_of("", ""), 0.5).tolist() in ([True] * 2, [False] * 2)


# --- shuffle -----------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(-(1 << 70), 1 << 70), st.integers(0, 1 << 40))
def test_a_shuffle_is_a_permutation_by_seed_and_unit(count: int, seed: int, unit: int) -> None:
    order = shuffled(count, seed, unit)
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, shuffled(count, seed, unit))


def test_other_seeds_and_other_units_are_other_orders_and_none_ever_changes() -> None:
    assert shuffled(8, 0, 0).tolist() == [0, 3, 5, 7, 6, 2, 1, 4]
    orders = [shuffled(8, seed, unit).tolist() for seed in (0, 1) for unit in (0, 1)]
    assert all(orders.count(order) == 1 for order in orders)
    # How far each goes, over many: as in a random order, a third of the whole.
    order = shuffled(10_000, 7, 3)
    assert abs(np.abs(order - np.arange(10_000)).mean() / 10_000 - 1 / 3) < 0.01


@given(st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=5), st.integers(0, 9))
def test_shuffled_documents_keep_their_ids_and_columns(batches: list[list[int]], seed: int) -> None:
    shuffle = Shuffle(seed, 0, UINT16)
    whole = rows_of([length for batch in batches for length in batch])
    first = 0
    for batch in batches:
        columns = whole.columns.slice(first, len(batch)) if whole.columns is not None else None
        shuffle.add(Rows(whole.offsets[first : first + len(batch) + 1], whole.ids, columns))
        first += len(batch)
    found = [
        (row, number)
        for rows, numbers in shuffle.rows()
        for row, number in zip(listed(rows), numbers.tolist(), strict=True)
    ]
    order = shuffled(len(whole), seed, 0).tolist()
    assert found == [(listed(whole)[number], number) for number in order]


def test_a_shuffle_gives_back_a_few_million_tokens_at_a_time() -> None:
    shuffle = Shuffle(0, 0, UINT16)
    rows = rows_of([1 << 20] * 5)
    shuffle.add(rows)
    assert [len(some) for some, _ in shuffle.rows()] == [2, 2, 1]


# --- the steps together ------------------------------------------------------------------------


def unit_rules(rules: DocumentRules, *, framed: bool = True) -> UnitRules:
    return UnitRules(rules, 0, text_column="text", framed=framed, dtype=UINT16)


def test_documents_out_of_the_limits_are_dropped_with_their_reason() -> None:
    rules = unit_rules(DocumentRules(min_tokens=2, max_tokens=4))
    texts, rows = rules.select(texts_of(*"abcdef"), rows_of([0, 1, 2, 4, 5, 3]))
    assert texts.to_pylist() == ["c", "d", "f"]
    assert [number for number, _ in listed(rows)] == [2, 3, 5]
    assert rules.counts == Counts(dropped=3, dropped_short=2, dropped_long=1)


def test_without_a_token_around_it_an_empty_document_is_dropped() -> None:
    framed, bare = (unit_rules(DocumentRules(), framed=framed) for framed in (True, False))
    assert len(framed.select(texts_of("", "x"), rows_of([0, 1]))[1]) == 2
    assert len(bare.select(texts_of("", "x"), rows_of([0, 1]))[1]) == 1
    assert bare.counts == Counts(dropped=1, dropped_empty=1)


@pytest.mark.parametrize("seed", [None, 5])
def test_each_document_comes_once_on_the_side_of_its_hash(seed: int | None) -> None:
    texts, rows = texts_of(*CORPUS[:500]), rows_of([n % 3 for n in range(500)])
    rules = unit_rules(DocumentRules(validation=0.3, shuffle_seed=seed))
    found: dict[str, list[int]] = {"train": [], "validation": []}
    placed = [*rules.place(texts, rows), *rules.rest()]
    for split, some in placed:
        found[split].extend(number for number, _ in listed(some))
    held_out = np.flatnonzero(in_validation(texts, 0.3)).tolist()
    assert sorted(found["validation"]) == held_out
    assert sorted(found["train"]) == sorted(set(range(500)) - set(held_out))
    assert (found["train"] == sorted(found["train"])) == (seed is None)


# --- transform ---------------------------------------------------------------------------------

SOURCE = """
import pyarrow as pa
import pyarrow.compute as pc

def upper(table):
    return table.set_column(0, "text", pc.utf8_upper(table["text"]))

def long_ones(table):
    return table.filter(pc.greater(pc.utf8_length(table["text"]), 2))

def twice(table):
    return pa.concat_tables([table, table])

def nothing(table):
    return table.slice(0, 0)

def as_string(table):
    return table.cast(pa.schema([("text", pa.string()), ("n", pa.int64())]))

def as_batch(table):
    return table.to_batches()[0]

def renamed(table):
    return table.rename_columns(["body", "n"])

def doubled(table):
    return table.append_column("text", table["text"])

def more(table):
    return table.append_column("score", table["n"])

def numbers(table):
    return table.set_column(0, "text", table["n"])

def nulls(table):
    return table.set_column(0, "text", pa.nulls(len(table), pa.string()))

def wider(table):
    return table.set_column(1, "n", table["n"].cast(pa.float64()))

def broken(table):
    raise KeyError("oops")

def no_utf8(table):
    raw = pa.array([b"\\xff"], pa.large_binary()).view(pa.large_string())
    return pa.table({"text": raw, "n": pa.array([1])})

NOT_ONE = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of transforms that is on the path; its name."""
    name = f"transforms_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


Apply = Callable[[str], tuple[list[str], list[int]]]


@pytest.fixture
def applied(module: str) -> Apply:
    """Applies a function of the module to two rows; texts and column `n` that come back."""

    def apply(function: str) -> tuple[list[str], list[int]]:
        columns = pa.record_batch({"n": pa.array([1, 2], pa.int64())})
        transform = find_transform(f"{module}:{function}")
        documents, kept = apply_transform(transform, texts_of("ab", "cde"), columns, "text")
        assert documents.type == pa.large_string()
        assert kept is not None
        return documents.to_pylist(), kept.column("n").to_pylist()

    return apply


@pytest.mark.parametrize(
    ("function", "texts", "numbers"),
    [
        ("upper", ["AB", "CDE"], [1, 2]),
        ("long_ones", ["cde"], [2]),
        ("twice", ["ab", "cde", "ab", "cde"], [1, 2, 1, 2]),
        ("nothing", [], []),
        ("as_string", ["ab", "cde"], [1, 2]),
    ],
)
def test_a_transform_may_change_drop_and_add_rows(
    function: str, texts: list[str], numbers: list[int], applied: Apply
) -> None:
    assert applied(function) == (texts, numbers)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("as_batch", "gave back a RecordBatch, not a pyarrow.Table"),
        ("renamed", "gave back no column 'text', or more than one: it has body, n"),
        ("doubled", "gave back no column 'text', or more than one: it has text, n, text"),
        ("more", "gave back columns that nothing keeps: score"),
        ("numbers", "gave back column 'text' as int64, not text"),
        ("nulls", "gave back 2 nulls in column 'text'"),
        ("wider", "gave back column 'n' as double, it was int64"),
        ("broken", "failed: KeyError: 'oops'"),
        ("no_utf8", "gave back text that is not UTF-8"),
    ],
)
def test_what_a_transform_may_not_do_names_it(
    function: str, words: str, applied: Apply, module: str
) -> None:
    with pytest.raises(StokerError) as caught:
        applied(function)
    assert str(caught.value).startswith(f"--transform {module}:{function} {words}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("upper", "write it as module:function"),
        ("a b:upper", "write it as module:function"),
        ("no_such_module:f", "there is no module 'no_such_module' to import here: put its folder"),
        ("no.such:f", "there is no module 'no' to import"),
        ("{module}:missing", "has no function 'missing'"),
        ("{module}:NOT_ONE", "has no function 'NOT_ONE'"),
        ("math:sqrt", "has no source file"),
    ],
)
def test_what_is_no_transform_is_found_on_the_driver(name: str, words: str, module: str) -> None:
    with pytest.raises(StokerError, match=words):
        find_transform(name.format(module=module))


def test_a_module_that_fails_when_it_is_imported_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stoker_test_broken.py").write_text("import stoker_test_nowhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StokerError, match="fails when it is imported: ModuleNotFoundError"):
        find_transform("stoker_test_broken:f")


def test_a_worker_with_another_source_than_the_driver_refuses(module: str) -> None:
    found = find_transform(f"{module}:upper")
    other = Transform(found.name, "0" * 64)
    with pytest.raises(StokerError, match="is not the one that the job was planned with"):
        apply_transform(other, texts_of("a"), None, "text")


def test_a_worker_that_knew_an_earlier_source_takes_the_new_one(module: str) -> None:
    name = f"{module}:upper"
    before = find_transform(name)
    assert apply_transform(before, texts_of("a"), None, "text")[0].to_pylist() == ["A"]
    file = sys.modules[module].__file__
    assert file is not None
    Path(file).write_text(SOURCE.replace("utf8_upper", "utf8_reverse"))
    after = find_transform(name)
    assert after != before
    assert apply_transform(after, texts_of("ab"), None, "text")[0].to_pylist() == ["ba"]


def test_rows_in_and_out_of_a_transform_are_counted(module: str) -> None:
    found = find_transform(f"{module}:twice")
    rules = unit_rules(DocumentRules(transform=found.name, transform_sha256=found.sha256))
    batch = Batch(texts_of("ab", "cde"), (), 2, 0, str)
    documents, columns = rules.transform(batch)
    assert (len(documents), columns) == (4, None)
    assert rules.counts == Counts(transform_in=2, transform_out=4)
