"""packing="best_fit" and "none": whole documents in padded rows, each token once."""

import json
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loaders import TokenDataset
from loaders.__main__ import main
from loaders.pack import make_packs
from shards.errors import CorruptShard
from tests.loaders.documents import Ints, natural_lengths, write_documents
from tests.loaders.restoring import equal, goes_on_elsewhere, ranks, restores_at_every_step
from tests.loaders.support import token_loader
from tests.servers import S3Server

SEQ_LEN = 64
# Three shards, the second of one short document; some documents are longer than a row.
LENGTHS = [natural_lengths(420), [5], natural_lengths(400, seed=1)]
TOKENS = sum(map(sum, LENGTHS))
FIRST = 1  # 0 is padding alone
EVERY = list(range(FIRST, TOKENS + FIRST))
MASK = (np.random.default_rng(0).random(TOKENS) < 0.7).astype(np.uint8)
PACKINGS = ["best_fit", "none"]
# Blocks of four rows, a quarter of a pack.
MODES: dict[str, dict[str, Any]] = {
    "resident": {},
    "streaming": {"prefetch_bytes": 60_000, "lanes": 4},
}


def packed(uri: str, packing: Any, seq_len: int = SEQ_LEN, **options: Any) -> TokenDataset:
    if packing != "concat":
        make_packs(uri, seq_len, packing=packing, rows=16)
    return TokenDataset(uri, seq_len, packing=packing, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ints]:
    uri = str(tmp_path_factory.mktemp("packed") / "tokens")
    return uri, write_documents(uri, LENGTHS, first_token=FIRST)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ints]:
    uri = str(tmp_path_factory.mktemp("masked") / "tokens")
    return uri, write_documents(uri, LENGTHS, first_token=FIRST, mask=MASK)


def whole_pieces(row: list[int], starts: set[int], seq_len: int, end: int) -> bool:
    """Whether a row is made of whole documents, and pieces of those that are longer than a row."""
    rising = [*sorted(starts), end]
    bounds = [0, *(n for n in range(1, len(row)) if row[n] != row[n - 1] + 1 or row[n] in starts)]
    for first, stop in pairwise([*bounds, len(row)]):
        at = bisect_right(rising, row[first])
        begin, behind = rising[at - 1], rising[at]
        if (row[first] - begin) % seq_len:
            return False
        if row[stop - 1] + 1 != behind and stop - first != seq_len:
            return False
    return True


def labels_of(
    row: list[int], starts: set[int], width: int, seq_len: int, end: int, form: Any
) -> list[int]:
    if form.labels == "same":
        wanted = list(row)
    else:
        behind = row[-1] + 1 if len(row) == seq_len else end
        wanted = [*row[1:], behind if behind < end and behind not in starts else -100]
    if form.document_mask:
        new = [n for n in range(1, len(row)) if row[n] != row[n - 1] + 1]
        for n in new:
            wanted[n if form.labels == "same" else n - 1] = -100
        wanted = [-100 if label in starts else label for label in wanted]
    return wanted + [-100] * (width - len(wanted))


def check_rows(
    dataset: TokenDataset, batch: dict[str, Any], starts: set[int], mask: Any = None
) -> list[int]:
    """Checks every key of a batch; the tokens in it."""
    form, end = dataset.form, dataset.stream.tokens + FIRST
    found: list[int] = []
    width = batch["input_ids"].shape[1]
    longest = 0
    for number, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
        values = ids.tolist()
        size = int(ids.count_nonzero())
        row = values[:size]
        if form.document_mask:
            new = [n for n in range(1, size) if row[n] in starts or row[n] != row[n - 1] + 1]
            begins = sorted({0, *new, size} - {width})  # padding is a document of its own
            positions = batch["position_ids"][number].tolist()
            wanted = [n - max(at for at in begins if at <= n) for n in range(width)]
            assert positions == wanted
        else:
            assert batch["attention_mask"][number].tolist() == [1] * size + [0] * (width - size)
            assert set(batch) == {"input_ids", "labels", "attention_mask"}
        assert values[size:] == [0] * (width - size)
        longest = max(longest, size)
        if row:
            assert whole_pieces(row, starts, dataset.seq_len, end), row
            wanted = labels_of(row, starts, width, dataset.seq_len, end, form)
            if mask is not None:
                wanted = [label if label >= 0 and mask[label - FIRST] else -100 for label in wanted]
            assert labels.tolist() == wanted
        found += row
    if form.packing == "none":
        assert width == form.width(longest, dataset.seq_len)
    else:
        assert width == dataset.seq_len
    return found


@pytest.mark.parametrize("labels", ["same", "next"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_are_whole_documents_and_each_token_comes_once(
    plain: tuple[str, Ints], packing: str, mode: str, labels: str
) -> None:
    uri, starts = plain
    dataset = packed(uri, packing, labels=labels)
    seen: list[int] = []
    for batch in token_loader(dataset, 8, True, **MODES[mode]):
        seen += check_rows(dataset, batch, set(starts.tolist()))
    assert sorted(seen) == EVERY


@pytest.mark.parametrize("labels", ["same", "next"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_loss_masks_count_in_packed_rows(
    masked: tuple[str, Ints], packing: str, labels: str
) -> None:
    uri, starts = masked
    dataset = packed(uri, packing, labels=labels)
    for batch in token_loader(dataset, 8, True, **MODES["streaming"]):
        check_rows(dataset, batch, set(starts.tolist()), MASK)


@pytest.mark.parametrize("labels", ["same", "next"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_documents_are_told_apart_and_padding_is_one_of_them(
    plain: tuple[str, Ints], packing: str, labels: str
) -> None:
    uri, starts = plain
    dataset = packed(uri, packing, labels=labels, document_mask=True)
    seen: list[int] = []
    for batch in token_loader(dataset, 8, True, **MODES["streaming"]):
        seen += check_rows(dataset, batch, set(starts.tolist()))
        bounds = np.flatnonzero(batch["position_ids"].numpy() == 0).tolist()
        assert batch["cu_seqlens"].tolist() == [*bounds, batch["input_ids"].numel()]
    assert sorted(seen) == EVERY


@settings(max_examples=30)
@given(
    shards=st.lists(
        st.lists(st.integers(0, 25), min_size=1, max_size=30).filter(any), min_size=1, max_size=3
    ),
    seq_len=st.integers(2, 10),
    rows=st.integers(1, 6),
    packing=st.sampled_from(PACKINGS),
    labels=st.sampled_from(["same", "next"]),
    data=st.data(),
)
def test_whatever_the_lengths_each_token_comes_once_and_no_document_is_cut_that_fits(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[int]],
    seq_len: int,
    rows: int,
    packing: Any,
    labels: Any,
    data: st.DataObject,
) -> None:
    tokens = sum(map(sum, shards))
    assume(packing == "none" or tokens >= seq_len)
    uri = str(tmp_path_factory.mktemp("lengths") / "tokens")
    mask = np.random.default_rng(0).integers(0, 2, tokens).astype(np.uint8)
    use = data.draw(st.sampled_from([None, mask]))
    starts = set(write_documents(uri, shards, first_token=FIRST, mask=use).tolist())
    make_packs(uri, seq_len, packing=packing, rows=rows)
    dataset = TokenDataset(uri, seq_len, packing=packing, labels=labels)
    world = data.draw(st.sampled_from([1, 2]))
    batch = data.draw(st.integers(1, 5))
    seen: list[int] = []
    for loader in ranks(dataset, world, batch * world, shuffle=data.draw(st.booleans()), lanes=2)():
        for some in loader:
            seen += check_rows(dataset, some, starts, use)
    assert sorted(seen) == list(range(FIRST, tokens + FIRST))


def test_best_fit_leaves_less_padding_than_a_document_a_row(plain: tuple[str, Ints]) -> None:
    best, none = (packed(plain[0], packing) for packing in PACKINGS)
    assert best.padding_share < 0.05 < none.padding_share
    assert f"{best.padding_share:.2%} padding" in repr(best)
    loader = token_loader(best, 8)
    assert loader.stats()["padding_share"] == best.padding_share
    real = sum(int(batch["attention_mask"].sum()) for batch in loader)
    assert real == TOKENS
    assert real / (len(best) * SEQ_LEN) == pytest.approx(1 - best.padding_share)


def test_batches_of_single_documents_are_as_long_as_a_multiple(plain: tuple[str, Ints]) -> None:
    dataset = packed(plain[0], "none", pad_to_multiple_of=16)
    widths = {batch["input_ids"].shape[1] for batch in token_loader(dataset, 2, True)}
    assert widths == {16, 32, 48, 64}
    with pytest.raises(ValueError, match="no multiple of pad_to_multiple_of=24"):
        TokenDataset(plain[0], SEQ_LEN, packing="none", pad_to_multiple_of=24)
    for other in ("best_fit", "concat"):
        with pytest.raises(ValueError, match=r"pad_to_multiple_of=16: .* with packing='none'"):
            TokenDataset(plain[0], SEQ_LEN, packing=other, pad_to_multiple_of=16)


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("packing", PACKINGS)
def test_samples_and_torchs_own_loader_are_the_same_rows(
    plain: tuple[str, Ints], packing: str, document_mask: bool
) -> None:
    dataset = packed(plain[0], packing, labels="next", document_mask=document_mask)
    assert len(dataset) == len(dataset[:])
    loader = token_loader(dataset, 8, True, data_parallel_rank=3, data_parallel_size=4)
    theirs = torch.utils.data.DataLoader(
        dataset, 8, sampler=loader.sampler, collate_fn=loader.collate_fn
    )
    for batch, other in zip(loader, theirs, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert equal(batch[name], other[name]), name
    for sample in (dataset[-1], dataset[3]):
        assert all(values.dtype == torch.int64 for values in sample.values())


@pytest.mark.parametrize(
    ("packing", "mode"),
    [
        ("best_fit", "streaming"),
        pytest.param("best_fit", "resident", marks=pytest.mark.slow),
        pytest.param("none", "streaming", marks=pytest.mark.slow),
        pytest.param("none", "resident", marks=pytest.mark.slow),
    ],
)
def test_a_restored_loader_gives_the_same_packed_rows_at_every_step(
    plain: tuple[str, Ints], packing: str, mode: str
) -> None:
    dataset = packed(plain[0], packing, document_mask=packing == "best_fit")
    batch = len(dataset) // 50 // 2 * 2
    restores_at_every_step(ranks(dataset, 2, batch, shuffle=True, **MODES[mode]))


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_rows_go_on_with_other_ranks_and_batches(
    plain: tuple[str, Ints], packing: str
) -> None:
    dataset = packed(plain[0], packing)
    batch = len(dataset) // 50 // 2 * 2
    one = ranks(dataset, 1, batch, shuffle=True, lanes=4)
    goes_on_elsewhere(one, ranks(dataset, 2, batch, shuffle=True, lanes=4))
    goes_on_elsewhere(one, ranks(dataset, 4, 2 * batch, shuffle=True, lanes=4))


def test_a_state_of_another_packing_or_plan_is_refused(plain: tuple[str, Ints]) -> None:
    best, none, concat = (packed(plain[0], packing) for packing in (*PACKINGS, "concat"))
    state = token_loader(best, 8).state_dict()
    for other in (none, concat):
        with pytest.raises(ValueError, match="saved with packing = 'best_fit-"):
            token_loader(other, 8).load_state_dict(state)
    make_packs(plain[0], SEQ_LEN, rows=4)
    again = TokenDataset(plain[0], SEQ_LEN, packing="best_fit")
    with pytest.raises(ValueError, match="saved with packing = 'best_fit-"):
        token_loader(again, 8).load_state_dict(state)
    with pytest.raises(ValueError, match="max_seq_len=128: rows of packing='best_fit'"):
        token_loader(best, 8, max_seq_len=128)


def test_a_state_from_before_there_was_packing_is_one_of_none(plain: tuple[str, Ints]) -> None:
    dataset = TokenDataset(plain[0], SEQ_LEN)
    state = token_loader(dataset, 8).state_dict()
    assert state.pop("packing") == "concat"
    token_loader(dataset, 8).load_state_dict({**state, "position": 8})
    with pytest.raises(ValueError, match="saved with packing = 'concat', this loader has 'best_f"):
        token_loader(packed(plain[0], "best_fit"), 8).load_state_dict(state)


@pytest.mark.parametrize("held", [True, False])
def test_from_s3_each_pack_is_read_once(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    uri = s3.bucket("loaders-packed") + "/tokens"
    starts = write_documents(uri, LENGTHS, first_token=FIRST)
    if not held:
        for module in ("loaders.blocks", "shards.tables"):
            monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)
    dataset = packed(uri, "best_fit")
    loader = token_loader(dataset, 8, True)
    seen = [one for b in loader for one in check_rows(dataset, b, set(starts.tolist()))]
    assert sorted(seen) == EVERY
    assert dataset._packs is not None
    # Tokens and offsets; where the table isn't held its checksums and two columns of it. Two packs
    # lie in more than one shard.
    packs = dataset._packs.plan.packs
    assert (
        packs * (2 if held else 5) <= loader.stats()["requests"] <= (packs + 4) * (2 if held else 5)
    )


def test_a_block_of_the_order_is_a_pack_so_that_few_are_read_twice(tmp_path: Path) -> None:
    uri, lanes = str(tmp_path / "tokens"), 2
    write_documents(uri, [natural_lengths(4000)], first_token=FIRST)
    make_packs(uri, SEQ_LEN, rows=64)
    dataset = TokenDataset(uri, SEQ_LEN, packing="best_fit")
    loader = token_loader(dataset, 4, True, lanes=lanes, prefetch_bytes=8 * 64 * 300)
    for _ in loader:
        pass
    first, *rest = loader.sampler.deal.order.levels
    assert first.block == 64
    # Tokens and offsets of each whole pack, and of the first of each lane, which is read in two
    # parts; then of a pack for each of the smaller blocks.
    blocks = first.dealt + lanes + sum(level.dealt + lanes for level in rest)
    assert 2 * first.dealt <= loader.stats()["requests"] <= 2 * blocks


@pytest.mark.parametrize("what", ["tokens_at", "documents_at", "loss_mask_at"])
def test_a_flipped_bit_is_found_in_packed_rows(tmp_path: Path, what: str) -> None:
    uri = str(tmp_path / "tokens")
    write_documents(uri, LENGTHS, first_token=FIRST, mask=MASK)
    dataset = packed(uri, "best_fit")
    stream = dataset.stream.dataset
    path = tmp_path / "tokens" / stream.path(2)
    data = bytearray(path.read_bytes())
    data[int(getattr(stream.index, what)[2]) + 801] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=path.name):
        list(token_loader(dataset, 8, True))


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_documents_of_a_packed_batch_are_named(
    plain: tuple[str, Ints], packing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, starts = plain
    dataset = packed(uri, packing)
    loader = token_loader(dataset, 4, True)
    batches = iter(loader)
    next(batches)
    state = json.dumps(loader.state_dict())
    step = list(batches)[2]
    assert main(["at", uri, "--state", state, "--step", "2", "--json"]) == 0
    named: dict[int, list[int]] = {}
    stream = dataset.stream
    for line in capsys.readouterr().out.splitlines():
        one = json.loads(line)
        shard = int(np.flatnonzero(stream.shards == one["shard"])[0])
        inside = starts[(starts - FIRST >= stream.starts[shard])]
        # Documents without a token have numbers too.
        lengths = LENGTHS[shard][: one["document"]]
        begin = int(stream.starts[shard]) + sum(lengths) + FIRST
        assert begin in inside
        some = range(begin + one["start"], begin + one["stop"])
        named.setdefault(one["row"], []).extend(some)
    pairs = zip(step["input_ids"], step["attention_mask"], strict=True)
    rows = [ids[mask == 1].tolist() for ids, mask in pairs]
    assert [named[row] for row in sorted(named)] == rows
