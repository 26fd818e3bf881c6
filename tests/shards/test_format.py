"""A shard is a plain Arrow file whose bytes lie where the index says."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.errors import DatasetError
from shards.format import CELL_BYTES, Cells, parse_shard, token_dtype
from shards.writer import build_shard

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(sum)


def shard_of(lengths, dtype, **more):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=dtype)
    return offsets, tokens, build_shard(offsets, tokens, **more)


@given(lengths=LENGTHS, dtype=st.sampled_from([np.uint16, np.uint32]), masked=st.booleans())
def test_runs_lie_at_the_offsets_that_the_layout_names(lengths, dtype, masked):
    n = sum(lengths)
    mask = (np.arange(n) % 2).astype(np.uint8) if masked else None
    offsets, tokens, built = shard_of(lengths, dtype, loss_mask=mask)
    data, layout = built.data.to_pybytes(), built.layout
    assert data[layout.tokens_at :][: tokens.nbytes] == tokens.tobytes()
    assert data[layout.documents_at :][: offsets.nbytes] == offsets.tobytes()
    assert (layout.loss_mask_at > 0) == masked
    if mask is not None:
        assert data[layout.loss_mask_at :][:n] == mask.tobytes()
    assert built.xxh3 == xxhash.xxh3_64_intdigest(data)


@given(lengths=LENGTHS)
def test_the_same_documents_always_make_the_same_bytes(lengths):
    assert shard_of(lengths, np.uint16)[2].data == shard_of(lengths, np.uint16)[2].data


def test_pyarrow_reads_a_shard_with_no_code_of_ours(tmp_path):
    _, _, built = shard_of([3, 0, 2], np.uint16, columns={"doc_id": pa.array(["a", "b", "c"])})
    (tmp_path / "s.arrow").write_bytes(built.data)
    table = pa.ipc.open_file(tmp_path / "s.arrow").read_all()
    assert table.column("input_ids").to_pylist() == [[0, 1, 2], [], [3, 4]]
    assert table.column("doc_id").to_pylist() == ["a", "b", "c"]
    assert table.schema.field("input_ids").type.value_type == pa.uint16()


def test_polars_reads_a_shard_with_no_code_of_ours(tmp_path):
    _, _, built = shard_of([3, 2], np.uint32)
    (tmp_path / "s.arrow").write_bytes(built.data)
    frame = pl.read_ipc(tmp_path / "s.arrow")
    assert frame["input_ids"].to_list() == [[0, 1, 2], [3, 4]]


def test_hf_datasets_reads_a_shard_with_no_code_of_ours(tmp_path):
    from datasets import load_dataset

    mask = np.ones(5, np.uint8)
    _, _, built = shard_of([3, 2], np.uint16, loss_mask=mask)
    (tmp_path / "s.arrow").write_bytes(built.data)
    rows = load_dataset(
        "arrow", data_files=str(tmp_path / "s.arrow"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert rows["input_ids"][:] == [[0, 1, 2], [3, 4]]


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 3 * CELL_BYTES // 2), min_size=1, max_size=6).filter(sum),
    dtype=st.sampled_from([np.dtype(np.uint16), np.dtype(np.uint32)]),
)
def test_cells_cover_what_the_contract_says(lengths, dtype):
    offsets, tokens, built = shard_of(lengths, dtype)
    step, cells = CELL_BYTES // dtype.itemsize, built.cells
    starts = range(0, len(tokens), step)
    assert len(cells.tokens_xxh3) == len(starts)
    for row, start in enumerate(starts):
        chunk = tokens[start : start + step]
        assert cells.tokens_xxh3[row] == xxhash.xxh3_64_intdigest(chunk.tobytes())
        first = int(cells.first_document[row])
        assert offsets[first] <= start < offsets[first + 1]
        last = row + 1 == len(starts)
        stop = len(offsets) if last else min(int(cells.first_document[row + 1]) + 2, len(offsets))
        assert offsets[stop - 1] >= start + len(chunk), "the last document's end is covered"
        assert cells.documents_xxh3[row] == xxhash.xxh3_64_intdigest(offsets[first:stop].tobytes())


@given(hnp.arrays(np.uint8, st.integers(1, 3000)))
def test_the_mask_has_a_checksum_for_each_cell_of_tokens(mask):
    tokens = np.zeros(len(mask), np.uint32)
    cells = Cells.of(np.array([0, len(mask)], np.int64), tokens, mask)
    assert cells.loss_mask_xxh3 is not None
    assert cells.loss_mask_xxh3.tolist() == [xxhash.xxh3_64_intdigest(mask.tobytes())]


@pytest.mark.parametrize(("largest", "name"), [(0, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_the_smallest_dtype_that_holds_the_largest_id(largest, name):
    assert token_dtype(largest).name == name


@pytest.mark.parametrize("largest", [-1, 1 << 32])
def test_an_id_that_no_dtype_holds_is_refused(largest):
    with pytest.raises(ValueError, match=r"2\*\*32"):
        token_dtype(largest)


@pytest.mark.parametrize(
    ("offsets", "tokens", "message"),
    [
        ([0, 2], np.zeros(3, np.uint16), "rise from 0 to 3"),
        ([0, 2, 1, 3], np.zeros(3, np.uint16), "rise from 0 to 3"),
        ([0, 0], np.zeros(0, np.uint16), "at least one token"),
        ([0, 1], np.zeros(1, np.int64), "uint16 or uint32"),
    ],
)
def test_documents_that_do_not_fit_their_tokens_are_refused(offsets, tokens, message):
    with pytest.raises(ValueError, match=message):
        build_shard(np.array(offsets, np.int64), tokens)


@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_shard_and_never_crash(data):
    with pytest.raises(DatasetError):
        parse_shard(pa.py_buffer(data))
