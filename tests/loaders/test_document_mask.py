"""document_mask=True: batches say where documents begin, from the shards' own offsets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import TokenDataset
from shards.errors import CorruptShard
from tests.loaders.documents import Ints, natural_lengths, write_documents
from tests.loaders.restoring import equal, goes_on_elsewhere, ranks, restores_at_every_step
from tests.loaders.support import Modes, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
BATCH = 8
# Three shards, the second of one short document; they end inside rows.
LENGTHS = [natural_lengths(420), [5], natural_lengths(400, seed=1)]
NAMES = {"cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k"}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ints]:
    uri = str(tmp_path_factory.mktemp("documents") / "tokens")
    return uri, write_documents(uri, LENGTHS)


@pytest.fixture(params=["held", "read with each block"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "held":
        for module in ("loaders.blocks", "shards.tables"):
            monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)


def expected(ids: torch.Tensor, starts: Ints, labels: str, tokens: int) -> dict[str, Any]:
    """What belongs to tokens whose values are their places in the stream."""
    begins = torch.isin(ids, torch.from_numpy(starts))
    column = torch.arange(ids.shape[1])
    positions = column - (begins * column).cummax(dim=1).values
    wanted = ids if labels == "same" else ids + 1
    no_label = torch.isin(wanted, torch.from_numpy(starts)) | (wanted >= tokens)
    bounds = [*np.flatnonzero(positions.numpy().reshape(-1) == 0).tolist(), ids.numel()]
    longest = int(np.diff(bounds).max())
    return {
        "input_ids": ids,
        "labels": wanted.masked_fill(no_label, -100),
        "position_ids": positions,
        **dict.fromkeys(NAMES, torch.tensor(bounds, dtype=torch.int32)),
        **dict.fromkeys(("max_seqlen", "max_length_q", "max_length_k"), longest),
    }


def check(batch: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert batch.keys() == wanted.keys()
    for name in wanted:
        assert equal(batch[name], wanted[name]), name


@pytest.mark.parametrize("labels", ["same", "next"])
@pytest.mark.parametrize("mode", Modes)
@pytest.mark.usefixtures("table")
def test_positions_and_lengths_are_those_of_the_documents(
    on_disk: tuple[str, Ints], mode: str, labels: Any
) -> None:
    uri, starts = on_disk
    dataset = TokenDataset(uri, SEQ_LEN, labels=labels, document_mask=True)
    seen: list[int] = []
    for batch in token_loader(dataset, BATCH, True, **Modes[mode]):
        check(batch, expected(batch["input_ids"], starts, labels, dataset.stream.tokens))
        seen += batch["input_ids"][:, 0].tolist()
    assert sorted(seen) == [number * SEQ_LEN for number in range(len(dataset))]


@settings(max_examples=20)
@given(
    shards=st.lists(
        st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any), min_size=1, max_size=3
    ),
    seq_len=st.integers(1, 9),
    labels=st.sampled_from(["same", "next"]),
    data=st.data(),
)
def test_whatever_the_lengths_every_token_but_the_first_of_a_document_is_a_label_once(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[int]],
    seq_len: int,
    labels: Any,
    data: st.DataObject,
) -> None:
    uri = str(tmp_path_factory.mktemp("lengths") / "tokens")
    starts = write_documents(uri, shards)
    tokens = sum(map(sum, shards))
    seq_len = min(seq_len, tokens)
    dataset = TokenDataset(uri, seq_len, labels=labels, document_mask=True)
    loader = token_loader(dataset, data.draw(st.integers(1, 5)), True, lanes=2)
    counted: list[int] = []
    for batch in loader:
        check(batch, expected(batch["input_ids"], starts, labels, tokens))
        counted += batch["labels"][batch["labels"] >= 0].tolist()
    last = len(dataset) * seq_len if labels == "same" else min(len(dataset) * seq_len + 1, tokens)
    assert sorted(counted) == sorted(set(range(last)) - set(starts.tolist()))


def test_from_s3_and_masked_it_is_the_same(s3: S3Server) -> None:
    uri = s3.bucket("loaders-documents") + "/tokens"
    tokens = sum(map(sum, LENGTHS))
    mask = (np.random.default_rng(0).random(tokens) < 0.7).astype(np.uint8)
    starts = write_documents(uri, LENGTHS, mask=mask)
    dataset = TokenDataset(uri, SEQ_LEN, document_mask=True)
    for batch in token_loader(dataset, BATCH, True, **Modes["streaming"]):
        wanted = expected(batch["input_ids"], starts, "same", tokens)
        wanted["labels"][torch.from_numpy(mask)[batch["input_ids"]] == 0] = -100
        check(batch, wanted)


def test_a_sample_and_torchs_own_loader_have_the_same_keys(on_disk: tuple[str, Ints]) -> None:
    uri, starts = on_disk
    dataset = TokenDataset(uri, SEQ_LEN, document_mask=True)
    wanted = expected(dataset[7]["input_ids"][None], starts, "same", dataset.stream.tokens)
    for name, values in dataset[7].items():
        assert torch.equal(values, wanted[name][0]), name
    loader = token_loader(dataset, BATCH, True, data_parallel_rank=3, data_parallel_size=4)
    theirs = torch.utils.data.DataLoader(
        dataset, BATCH, sampler=loader.sampler, collate_fn=loader.collate_fn
    )
    for batch, other in zip(loader, theirs, strict=True):
        check(batch, other)


def test_rows_of_padding_are_one_document_without_labels(on_disk: tuple[str, Ints]) -> None:
    dataset = TokenDataset(on_disk[0], SEQ_LEN, document_mask=True)
    samples = len(dataset)
    world = next(world for world in (3, 4, 5, 8) if samples % world)
    last = [list(loader)[-1] for loader in ranks(dataset, world, BATCH * world, shuffle=True)()]
    padded = [batch for batch in last if (batch["labels"] == -100).all(dim=1)[-1]]
    assert len(padded) == world - samples % world
    for batch in padded:
        assert torch.equal(batch["position_ids"][-1], torch.arange(SEQ_LEN))


@pytest.mark.parametrize("mode", ["resident", pytest.param("streaming", marks=pytest.mark.slow)])
def test_a_restored_loader_knows_the_documents_at_every_step(
    on_disk: tuple[str, Ints], mode: str
) -> None:
    dataset = TokenDataset(on_disk[0], SEQ_LEN, labels="next", document_mask=True)
    batch = max(2, len(dataset) // 50 // 2 * 2)
    restores_at_every_step(ranks(dataset, 2, batch, shuffle=True, **Modes[mode]))


def test_documents_stay_the_same_when_seq_len_changes(on_disk: tuple[str, Ints]) -> None:
    options: dict[str, Any] = {"shuffle": True, "lanes": 8, "max_seq_len": 64}
    samples = len(TokenDataset(on_disk[0], 64))
    short, long = (
        ranks(
            TokenDataset(on_disk[0], n, labels="next", document_mask=True),
            1,
            samples * 64 // n // 50,
            **options,
        )
        for n in (32, 64)
    )
    goes_on_elsewhere(short, long)


@pytest.mark.usefixtures("table")
def test_a_flipped_bit_in_the_offsets_is_found(tmp_path: Path) -> None:
    uri = str(tmp_path / "tokens")
    write_documents(uri, LENGTHS)
    dataset = TokenDataset(uri, SEQ_LEN, document_mask=True)
    stream = dataset.stream.dataset
    path = tmp_path / "tokens" / stream.path(2)
    data = bytearray(path.read_bytes())
    data[int(stream.index.documents_at[2]) + 8 * 200 + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=f"{path.name}: the checksum of its documents"):
        list(token_loader(dataset, BATCH, True))


@pytest.mark.parametrize("held", [True, False])
def test_it_costs_one_read_a_block_or_two_where_the_table_is_large(
    on_disk: tuple[str, Ints], monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    if not held:
        for module in ("loaders.blocks", "shards.tables"):
            monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)
    loader = token_loader(TokenDataset(on_disk[0], SEQ_LEN, document_mask=True), BATCH, True)
    list(loader)
    # One block over three shards: tokens and offsets; tokens with their checksums, two columns of
    # the table, then the offsets.
    assert loader.stats()["requests"] == (3 * 2 if held else 3 * 5)


def test_the_order_is_that_of_the_plain_loader(on_disk: tuple[str, Ints]) -> None:
    plain = token_loader(TokenDataset(on_disk[0], SEQ_LEN), BATCH, True)
    other = token_loader(TokenDataset(on_disk[0], SEQ_LEN, document_mask=True), BATCH, True)
    assert plain.state_dict() == other.state_dict()
    for batch, with_documents in zip(plain, other, strict=True):
        assert torch.equal(batch["input_ids"], with_documents["input_ids"])


def test_prefetch_bytes_count_what_is_held_for_documents(on_disk: tuple[str, Ints]) -> None:
    limit = Modes["streaming"]["prefetch_bytes"] * 2
    dataset = TokenDataset(on_disk[0], SEQ_LEN, labels="next", document_mask=True)
    loader = token_loader(dataset, BATCH, True, lanes=4, prefetch_bytes=limit)
    batches = iter(loader)
    next(batches)
    rows = batches.assembler.memory.rows  # type: ignore[attr-defined]
    arrays = (rows.tokens, rows.after, rows.after_counts, rows.begins)
    assert sum(one.nbytes for one in arrays) <= limit
