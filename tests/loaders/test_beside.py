"""A torch DataLoader with forked workers beside a Stoker loader that is reading from S3."""

from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import TensorDataset

from loaders import TokenDataset
from tests.loaders.support import Modes, first_tokens, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
STREAMING: dict[str, Any] = {**Modes["streaming"], "prefetch_factor": 2}


@pytest.fixture(scope="module")
def on_s3(s3: S3Server) -> TokenDataset:
    return token_dataset(s3.bucket("loaders-beside") + "/tokens", 60_000, seq_len=SEQ_LEN)


def forking(dataset: Any) -> "torch.utils.data.DataLoader[Any]":
    return torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context="fork"
    )


def test_workers_forked_while_it_reads_change_no_batch(on_s3: TokenDataset) -> None:
    expected = [first_tokens(batch) for batch in token_loader(on_s3, 8, True, **STREAMING)]
    numbers = TensorDataset(torch.arange(12))
    found = []
    for step, batch in enumerate(token_loader(on_s3, 8, True, **STREAMING)):
        found.append(first_tokens(batch))
        if step in (3, 50):
            validation = [int(n) for (part,) in forking(numbers) for n in part]
            assert validation == list(range(12))
    assert found == expected


def test_forked_workers_read_the_same_dataset_with_clients_of_their_own(
    on_s3: TokenDataset,
) -> None:
    training = iter(token_loader(on_s3, 8, True, **STREAMING))
    next(training)
    some = torch.utils.data.Subset(on_s3, range(40))
    rows = [row for batch in forking(some) for row in batch["input_ids"][:, 0].tolist()]
    assert rows == [SEQ_LEN * n for n in range(40)]
    assert len(list(training)) > 100


def test_a_forked_process_can_go_on_with_a_loader_of_its_own(on_s3: TokenDataset) -> None:
    """As with a launcher that opens the dataset and forks its ranks."""
    training = iter(token_loader(on_s3, 8, True, **STREAMING))
    next(training)
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def rank() -> None:
        queue.put([first_tokens(one) for one in token_loader(on_s3, 8, True, **STREAMING)])

    child = context.Process(target=rank)
    child.start()
    found = queue.get()
    child.join(30)
    assert child.exitcode == 0
    assert found == [first_tokens(one) for one in token_loader(on_s3, 8, True, **STREAMING)]
