"""A restored loader continues exactly: at every step, from disk and S3, in both modes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from loaders import TokenDataset
from loaders.dataloader import TokenDataLoader
from tests.loaders.support import Modes, first_tokens, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
SAMPLES = 50 * 8 + 5  # at batch size 8 an epoch of 51 steps, the last one short

Make = Callable[..., TokenDataLoader]


@pytest.fixture(scope="module", params=["disk", "s3"])
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TokenDataset:
    if request.param == "disk":
        uri = str(tmp_path_factory.mktemp("resume") / "tokens")
    else:
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-resume") + "/tokens"
    return token_dataset(uri, SAMPLES * SEQ_LEN + 17, seq_len=SEQ_LEN)


# Blocks of four samples.
FEW_LANES = {"resident": {}, "streaming": {"prefetch_bytes": 32_768, "lanes": 4}}


def restores_at_every_step(make: Make) -> None:
    """The tail after a restored state equals the undisturbed one's, for each step of an epoch."""
    undisturbed, states, batches = make(), [], []
    states.append(undisturbed.state_dict())
    for batch in undisturbed:
        batches.append(first_tokens(batch))
        states.append(undisturbed.state_dict())
    next_epoch = [first_tokens(batch) for batch in undisturbed]
    assert batches != next_epoch or not undisturbed.sampler.shuffle
    assert 40 <= len(batches) <= 60
    for step, state in enumerate(states):
        restored = make()
        restored.load_state_dict(json.loads(json.dumps(state)))
        assert [first_tokens(batch) for batch in restored] == batches[step:], step
    # And into the next epoch.
    assert [first_tokens(batch) for batch in restored] == next_epoch


@pytest.mark.parametrize("mode", Modes)
@pytest.mark.parametrize("shuffle", [True, False])
def test_it_restores_at_every_step_on_one_rank(
    dataset: TokenDataset, mode: str, shuffle: bool
) -> None:
    restores_at_every_step(lambda: token_loader(dataset, 8, shuffle, seed=3, **FEW_LANES[mode]))


@pytest.mark.parametrize("mode", Modes)
@pytest.mark.parametrize("rank", [0, 3])
def test_it_restores_at_every_step_on_a_rank_of_four(
    dataset: TokenDataset, mode: str, rank: int
) -> None:
    restores_at_every_step(
        lambda: token_loader(
            dataset, 2, True, data_parallel_rank=rank, data_parallel_size=4, **FEW_LANES[mode]
        )
    )


@pytest.mark.parametrize("mode", Modes)
def test_a_run_continues_on_other_numbers_of_ranks(dataset: TokenDataset, mode: str) -> None:
    def ranks(world: int, state: dict[str, Any] | None = None) -> list[TokenDataLoader]:
        loaders = [
            token_loader(
                dataset,
                8 // world,
                True,
                data_parallel_rank=rank,
                data_parallel_size=world,
                **Modes[mode],
            )
            for rank in range(world)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        return loaders

    def global_batches(loaders: list[TokenDataLoader]) -> list[list[int]]:
        """Steps as what all ranks together were given, padding left out."""
        return [
            sorted(token for batch in step for token in first_tokens(batch) if token >= 0)
            for step in zip(*loaders, strict=True)
        ]

    undisturbed = global_batches(ranks(1))
    state = None
    done = 0
    for world, steps in ((4, 13), (1, 10), (8, 9), (2, 5)):
        loaders = ranks(world, state)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(steps):
            step = [first_tokens(next(iterator)) for iterator in iterators]
            assert sorted(token for batch in step for token in batch) == undisturbed[done]
            done += 1
        states = [loader.state_dict() for loader in loaders]
        assert all(one == states[0] for one in states)
        state = states[0]
    assert global_batches(ranks(4, state)) == undisturbed[done:]


def test_the_batch_size_may_change_too(dataset: TokenDataset) -> None:
    order = [token for batch in token_loader(dataset, 8, True) for token in first_tokens(batch)]
    loader = token_loader(dataset, 8, True)
    iterator = iter(loader)
    seen = [token for _ in range(11) for token in first_tokens(next(iterator))]
    other = token_loader(dataset, 5, True)
    other.load_state_dict(loader.state_dict())
    seen += [token for batch in other for token in first_tokens(batch)]
    assert seen == order


def test_a_state_is_a_few_plain_values(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True, seed=9)
    next(iter(loader))
    state = loader.state_dict()
    assert (state["epoch"], state["position"], state["seed"]) == (0, 8, 9)
    assert len(json.dumps(state)) < 400
    assert all(value is None or isinstance(value, int | str) for value in state.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "another"}, "saved with dataset = 'another', this loader has '"),
        ({"seed": 4}, "saved with seed = 4, this loader has 0"),
        ({"seq_len": 32}, "saved with seq_len = 32, this loader has 64"),
        ({"lanes": 24}, "saved with lanes = 24, this loader has 960"),
        ({"version": 99}, "saved with version = 99, this loader has 1"),
        ({"shuffle": False}, "saved with shuffle = False, this loader has True"),
        ({"split": "validation"}, "saved with split = 'validation', this loader has 'train'"),
        ({"position": -1}, "not a loader's state: epoch 0, position -1"),
        ({"position": 10**9}, "position 1000000000 lies behind the"),
        ({"more": 1}, "not a loader's state: it has"),
    ],
)
def test_a_state_of_something_else_is_refused_with_both_named(
    dataset: TokenDataset, change: dict[str, Any], words: str
) -> None:
    loader = token_loader(dataset, 8, True)
    with pytest.raises(ValueError, match=re.escape(words)):
        loader.load_state_dict({**loader.state_dict(), **change})
    assert loader.state_dict()["position"] == 0
