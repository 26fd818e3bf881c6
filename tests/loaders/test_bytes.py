"""Bytes that leave the S3 server in an epoch, over all ranks, counted there."""

import numpy as np
import pytest

from loaders import TokenDataset
from loaders.hedge import HedgeRules, Hedging
from loaders.schedule import Span, StreamingPlan, chunks
from tests.datasets import write_dataset
from tests.faulty_s3 import faulty_s3
from tests.loaders.support import token_loader
from tests.servers import S3Server

# Lanes read blocks of 0.5 to 1 MiB where there are 16 for each. These are whole rounds of them: in
# large data what is left over for smaller blocks is no part of it to speak of.
LANES = 4
ROUNDS = 17
BLOCKS = {2048: 128, 1536: 128, 4096: 64, 3000: 64, 7777: 32, 1000: 256}  # samples, by seq_len
MOST = 1.13
SHARD = 1_000_003
WIDTH = 4


def dataset_of(uri: str, tokens: int, seq_len: int) -> TokenDataset:
    """In shards of 4 MB, which end inside cells and blocks (the server hashes one for each GET)."""
    values = np.arange(tokens, dtype=np.uint32)
    write_dataset(uri, [[one] for one in np.split(values, range(SHARD, tokens, SHARD))])
    return TokenDataset(uri, seq_len)


def simulated(dataset: TokenDataset) -> int:
    """Bytes of all reads of an epoch, by the order's arithmetic alone."""
    order = dataset.deal(LANES, 0, True, dataset.seq_len).rows()
    plan = StreamingPlan(Span(order, 0, 0, 8, False))
    runs = [run for chunk in chunks(plan, 1024, 1 << 30) for run in chunk.opened]
    assert order.block == BLOCKS[dataset.seq_len]
    return sum(
        piece.byte_stop - piece.byte_start
        for run in runs
        for piece in dataset.stream.pieces(
            run.first * dataset.seq_len, (run.first + run.count) * dataset.seq_len
        )
    )


def lengths(*fast: int) -> list[object]:
    return [pytest.param(one, marks=[] if one in fast else pytest.mark.slow) for one in BLOCKS]


def epoch(dataset: TokenDataset, rank: int, size: int) -> None:
    loader = token_loader(
        dataset,
        8 // size,
        True,
        lanes=LANES,
        prefetch_bytes=dataset.stream.tokens * WIDTH // 2,
        data_parallel_rank=rank,
        data_parallel_size=size,
    )
    for _ in loader:
        pass


@pytest.mark.parametrize("seq_len", lengths(3000))
def test_an_epoch_over_all_ranks_costs_the_server_1_13_times_the_data_at_most(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, seq_len: int
) -> None:
    tokens = LANES * ROUNDS * BLOCKS[seq_len] * seq_len
    dataset = dataset_of(s3.bucket("loaders-bytes") + "/tokens", tokens, seq_len)
    expected = simulated(dataset)
    # A second read, on a busy machine, would be counted too.
    none = HedgeRules(share=0, burst=0)
    monkeypatch.setattr("loaders.fetch.Hedging", lambda: Hedging(none))
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for size in (1, 2, 4):
            proxy.behave()
            for rank in range(size):
                epoch(dataset, rank, size)
            sent = sum(one.bytes for one in proxy.served if "/shards/" in one.line)
            assert sent == expected, (size, sent / expected)
    assert tokens * WIDTH <= expected <= MOST * tokens * WIDTH
