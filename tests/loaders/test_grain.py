"""A TokenDataset is a random-access source to Grain, in its process and in worker processes."""

from itertools import chain
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loaders import TokenDataset
from tests.loaders.support import token_dataset
from tests.servers import S3Server

SEQ_LEN = 96
TOKENS = 20_000
SAMPLES = TOKENS // SEQ_LEN


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return token_dataset(str(tmp_path_factory.mktemp("grain") / "t"), TOKENS, seq_len=SEQ_LEN)


def numbers(batches: Any) -> list[list[int]]:
    """The samples in each batch, all of whose tokens have been looked at."""
    seen = []
    for batch in batches:
        ids, labels = np.asarray(batch["input_ids"]), np.asarray(batch["labels"])
        assert ids.dtype == labels.dtype == np.int64
        assert np.array_equal(ids, ids[:, :1] + np.arange(SEQ_LEN))
        assert np.array_equal(ids, labels)
        seen.append((ids[:, 0] // SEQ_LEN).tolist())
    return seen


def flat(batches: list[list[int]]) -> list[int]:
    return [*chain.from_iterable(batches)]


def as_numpy(sample: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in sample.items()}


def test_it_is_what_grain_calls_a_source(dataset: TokenDataset) -> None:
    assert isinstance(dataset, grain.sources.RandomAccessDataSource)


def test_a_grain_pipeline_over_it_is_shuffled_batched_and_restored(dataset: TokenDataset) -> None:
    def made() -> Any:
        source = grain.MapDataset.source(dataset).shuffle(seed=3).map(as_numpy)
        return iter(source.to_iter_dataset().batch(8))

    whole = numbers(made())
    assert sorted(flat(whole)) == [*range(SAMPLES)]
    assert flat(whole) != [*range(SAMPLES)]
    for step in (0, 3, 17):
        left = made()
        for _ in range(step):
            next(left)
        again = made()
        again.set_state(left.get_state())
        assert numbers(again) == whole[step:]


def grain_loader(dataset: TokenDataset, workers: int) -> grain.DataLoader:
    return grain.DataLoader(
        data_source=dataset,
        sampler=grain.samplers.IndexSampler(SAMPLES, shuffle=True, seed=5, num_epochs=1),
        operations=[ToNumpy(), grain.transforms.Batch(8)],
        worker_count=workers,
    )


class ToNumpy(grain.transforms.Map):
    def map(self, element: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return as_numpy(element)


def test_grains_dataloader_reads_it(dataset: TokenDataset) -> None:
    assert sorted(flat(numbers(grain_loader(dataset, 0)))) == [*range(SAMPLES)]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_grains_worker_processes_read_it_and_are_restored(
    dataset: TokenDataset, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "s3":
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-grain") + "/tokens"
        dataset = token_dataset(uri, TOKENS, seq_len=SEQ_LEN)
    dataset[0]  # this process has its files and clients open
    iterator = iter(grain_loader(dataset, 2))
    seen = numbers(next(iterator) for _ in range(5))
    state = iterator.get_state()
    rest = numbers(iterator)
    assert sorted(flat(seen + rest)) == [*range(SAMPLES)]
    again = iter(grain_loader(dataset, 2))
    again.set_state(state)
    assert numbers(again) == rest


def test_a_state_of_grains_is_refused_for_another_dataset(
    dataset: TokenDataset, tmp_path: Path
) -> None:
    other = token_dataset(str(tmp_path / "other"), TOKENS, seq_len=SEQ_LEN)
    state = iter(grain_loader(dataset, 0)).get_state()
    with pytest.raises(ValueError, match="DataSource in checkpoint does not match"):
        iter(grain_loader(other, 0)).set_state(state)


edges = st.one_of(st.none(), st.integers(-SAMPLES - 5, SAMPLES + 5))
strides = st.one_of(st.none(), st.integers(-90, 90).filter(lambda step: abs(step) > 40))


@given(start=edges, stop=edges, step=strides)
def test_a_slice_is_that_of_a_list(
    dataset: TokenDataset, start: int | None, stop: int | None, step: int | None
) -> None:
    step = step or 50
    found = [int(sample["input_ids"][0]) // SEQ_LEN for sample in dataset[start:stop:step]]
    assert found == [*range(SAMPLES)][start:stop:step]


@given(indices=st.lists(st.integers(-SAMPLES, SAMPLES - 1), max_size=6))
@pytest.mark.parametrize("kind", [int, np.int64, np.int32, torch.tensor])
def test_items_are_those_of_a_list_by_any_kind_of_whole_number(
    dataset: TokenDataset, kind: Any, indices: list[int]
) -> None:
    samples = dataset.__getitems__([kind(index) for index in indices])
    found = [int(sample["input_ids"][0]) // SEQ_LEN for sample in samples]
    assert found == [range(SAMPLES)[index] for index in indices]


@pytest.mark.parametrize("index", [1.0, "1", None, [1]])
def test_what_is_no_whole_number_is_no_index(dataset: TokenDataset, index: Any) -> None:
    with pytest.raises(TypeError):
        dataset[index]
