"""15 T tokens in 1,000,000 shards on 3,840 ranks, simulated: every number but the tokens."""

import json
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders import TokenDataLoader, TokenDataset, permutation
from loaders import order as order_module
from loaders.schedule import Span, StreamingPlan, chunks
from shards.dataset import Dataset, Index, Stream
from tests.loaders.support import token_dataset, token_loader

SHARDS = 1_000_000
SHARD_TOKENS = 15_000_000
SEQ_LEN = 4096
RANKS = 3840
SAMPLES = SHARDS * SHARD_TOKENS // SEQ_LEN


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """A small dataset whose index says that there are a million large shards."""
    small = token_dataset(str(tmp_path_factory.mktemp("tb") / "tokens"), 10_000, seq_len=SEQ_LEN)
    inner = small.stream.dataset
    columns: dict[str, Any] = {
        field.name: np.resize(getattr(inner.index, field.name)[:1], SHARDS)
        for field in fields(Index)
    }
    columns["unit"] = np.arange(SHARDS)
    columns["tokens"] = np.full(SHARDS, SHARD_TOKENS)
    columns["first_cell"] = np.arange(SHARDS + 1) * -(-SHARD_TOKENS // 16384)
    small.stream = Stream(Dataset(inner.store, inner.manifest, Index(**columns)), np.arange(SHARDS))
    small.samples = small.stream.tokens // SEQ_LEN
    assert small.samples == SAMPLES
    return small


def loader_of(dataset: TokenDataset, rank: int, **kwargs: Any) -> TokenDataLoader:
    return token_loader(
        dataset, 2, True, lanes=RANKS, data_parallel_rank=rank, data_parallel_size=RANKS, **kwargs
    )


@pytest.mark.parametrize("step", [123_456, SAMPLES // (2 * RANKS) - 3])
def test_all_ranks_together_have_the_global_batch_of_a_step(
    dataset: TokenDataset, step: int
) -> None:
    loader = loader_of(dataset, 0)
    loader.skip(step)
    span, size = loader.sampler.current(), 2 * RANKS
    samples: list[int] = []
    for rank in range(RANKS):
        mine = Span(span.order, 0, span.start, 2, False, rank, RANKS)
        assert mine.steps == span.steps
        samples += span.order.sample_at(0, mine.positions(0, 2)).tolist()
    positions = np.arange(step * size, (step + 1) * size)
    assert sorted(samples) == sorted(span.order.sample_at(0, positions).tolist())
    assert len(set(samples)) == size
    assert 0 <= min(samples) <= max(samples) < SAMPLES


def test_a_state_is_small_and_the_same_on_every_rank(dataset: TokenDataset) -> None:
    states = []
    for rank in (0, 1, 1919, 3839):
        loader = loader_of(dataset, rank)
        loader.skip(10**6)
        states.append(json.dumps(loader.state_dict()))
    assert set(states) == {states[0]}
    assert len(states[0]) < 400


def work_until_the_first_chunk(
    dataset: TokenDataset, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Elements permuted and bytes allocated by a fresh loader that is restored and starts."""
    done = []

    def counting(index: np.ndarray, size: Any, key: np.ndarray) -> np.ndarray:
        done.append(index.size)
        return permutation.permute(index, size, key)

    with monkeypatch.context() as patch:
        patch.setattr(order_module, "permute", counting)
        tracemalloc.start()
        loader = loader_of(dataset, 7)
        loader.load_state_dict(state)
        next(chunks(StreamingPlan(loader.sampler.current()), 1024, 10**9))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return sum(done), peak


def test_restoring_at_any_step_costs_what_starting_costs(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = loader_of(dataset, 7).state_dict()
    start, memory = work_until_the_first_chunk(dataset, state, monkeypatch)
    assert memory < 8 << 20
    for share in (0.1, 0.5, 0.9, 0.97):
        position = int(SAMPLES * share)
        work, peak = work_until_the_first_chunk(
            dataset, {**state, "epoch": 3, "position": position}, monkeypatch
        )
        assert work <= start
        assert peak < 8 << 20


def test_restoring_rows_of_another_length_costs_no_more_than_a_round(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = loader_of(dataset, 7).state_dict()
    start, _ = work_until_the_first_chunk(dataset, state, monkeypatch)
    # Saved inside a round, in rows of a quarter of the length: 4 x 3,840 rows are looked through.
    saved = {**state, "seq_len": SEQ_LEN // 4, "position": 4 * (SAMPLES // 2) + 1234}
    work, peak = work_until_the_first_chunk(dataset, saved, monkeypatch)
    assert work <= start + 8 * RANKS
    assert peak < 16 << 20


def test_a_sample_is_found_in_its_shard(dataset: TokenDataset) -> None:
    for sample in (0, 3661, 3662, SAMPLES // 2, SAMPLES - 1):
        pieces = dataset.stream.pieces(sample * SEQ_LEN, (sample + 1) * SEQ_LEN)
        first = sample * SEQ_LEN
        assert pieces[0].path.endswith(f"{first // SHARD_TOKENS:08d}-000.arrow")
        assert pieces[0].start == first % SHARD_TOKENS
        assert sum(piece.stop - piece.start for piece in pieces) == SEQ_LEN


def test_reading_whole_cells_costs_at_most_a_thirteenth_more(dataset: TokenDataset) -> None:
    order = loader_of(dataset, 0).sampler.deal.order
    first = order.places(0, np.arange(0, 5 * 10**6, 997)).first
    read = wanted = 0
    for start in np.unique(first // order.block).tolist():
        tokens = order.block * SEQ_LEN
        for piece in dataset.stream.pieces(start * tokens, (start + 1) * tokens):
            read += piece.byte_stop - piece.byte_start
            wanted += (piece.stop - piece.start) * 4
    assert wanted <= read <= 1.13 * wanted


def test_a_rank_reads_ahead_within_the_blocks_it_owns(dataset: TokenDataset) -> None:
    span = loader_of(dataset, 11).sampler.current()
    plan = StreamingPlan(span)
    held, most = set(), 0
    cut = chunks(plan, 1024, 64)
    for _ in range(200):
        chunk = next(cut)
        held |= {run.number for run in chunk.opened}
        most = max(most, len(held))
        held -= set(chunk.closed)
    # One lane for each rank: one block open, and those that a chunk opens.
    assert most <= StreamingPlan.open_runs(span.order, RANKS) + 64
    assert Path(dataset.uri).exists()
