"""A restored loader continues exactly: at every step, whatever it reads and wherever it goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import TokenDataLoader, TokenDataset
from tests.loaders.restoring import (
    Batch,
    Make,
    epoch,
    goes_on_elsewhere,
    ranks,
    restored,
    restores_at_every_step,
    sorted_tokens,
    the_state,
)
from tests.loaders.support import first_tokens, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
BATCH = 8
SAMPLES = 40 * BATCH + 5  # an epoch of 41 steps, the last one short
TOKENS = SAMPLES * SEQ_LEN + 17
# Blocks of four samples.
MODES: dict[str, dict[str, Any]] = {
    "resident": {},
    "streaming": {"prefetch_bytes": 48_000, "lanes": 4},
}


def slowly(*arguments: Any) -> Any:
    """One of many alike: `make test-slow` runs it."""
    return pytest.param(*arguments, marks=pytest.mark.slow)


worlds = st.sampled_from([1, 2, 4])


@pytest.fixture(scope="module", params=["disk", slowly("s3")])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "disk":
        uri = str(tmp_path_factory.mktemp("resume") / "tokens")
    else:
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-resume") + "/tokens"
    token_dataset(uri, TOKENS, seq_len=SEQ_LEN)
    return uri


@pytest.fixture(scope="module")
def dataset(uri: str) -> TokenDataset:
    return TokenDataset(uri, SEQ_LEN)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("resume-disk") / "tokens")
    token_dataset(uri, TOKENS, seq_len=SEQ_LEN)
    return uri


@pytest.mark.parametrize(
    ("mode", "shuffle"),
    [
        ("streaming", True),
        ("resident", True),
        slowly("streaming", False),
        slowly("resident", False),
    ],
)
def test_a_restored_loader_gives_the_same_batches_at_every_step(
    dataset: TokenDataset, mode: str, shuffle: bool
) -> None:
    restores_at_every_step(ranks(dataset, 1, BATCH, shuffle=shuffle, seed=3, **MODES[mode]))


def test_a_loader_restored_on_s3_gives_the_same_batches_at_every_step(s3: S3Server) -> None:
    """The split held in memory; the blocks of "streaming" on S3 take a thousand requests."""
    uri = s3.bucket("loaders-resume-held") + "/tokens"
    dataset = token_dataset(uri, TOKENS, seq_len=SEQ_LEN)
    restores_at_every_step(ranks(dataset, 1, BATCH, shuffle=True, seed=3))


@pytest.mark.parametrize(
    ("mode", "shuffle", "drop_last"),
    [
        ("streaming", True, False),
        ("resident", False, True),
        slowly("streaming", False, False),
        slowly("streaming", True, True),
        slowly("resident", True, False),
    ],
)
def test_restored_ranks_give_the_same_batches_at_every_step(
    on_disk: str, mode: str, shuffle: bool, drop_last: bool
) -> None:
    dataset = TokenDataset(on_disk, SEQ_LEN)
    restores_at_every_step(
        ranks(dataset, 4, BATCH, shuffle=shuffle, drop_last=drop_last, **MODES[mode])
    )


@pytest.mark.parametrize("mode", ["streaming", slowly("resident")])
def test_masks_are_restored_with_their_tokens(tmp_path: Path, mode: str) -> None:
    mask = (np.random.default_rng(0).random(TOKENS) < 0.7).astype(np.uint8)
    uri = str(tmp_path / "tokens")
    dataset = token_dataset(uri, TOKENS, seq_len=SEQ_LEN, dtype="uint16", mask=mask)
    restores_at_every_step(ranks(dataset, 2, BATCH, shuffle=True, **MODES[mode]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_masks_stay_with_their_tokens_in_rows_of_another_length(tmp_path: Path, mode: str) -> None:
    mask = (np.random.default_rng(0).random(TOKENS) < 0.7).astype(np.uint8)
    uri = str(tmp_path / "tokens")
    dataset = token_dataset(uri, TOKENS, seq_len=SEQ_LEN, dtype="uint16", mask=mask)
    goes_on_elsewhere(
        ranks(dataset, 2, BATCH, shuffle=True, max_seq_len=SEQ_LEN, **MODES[mode]),
        ranks(TokenDataset(uri, 16), 1, 24, shuffle=True, **MODES[mode]),
    )


@pytest.mark.parametrize(
    ("mode", "shuffle"),
    [
        ("streaming", True),
        slowly("resident", True),
        slowly("streaming", False),
        slowly("resident", False),
    ],
)
def test_samples_read_in_parts_are_restored_at_every_step(
    on_disk: str, mode: str, shuffle: bool
) -> None:
    dataset = TokenDataset(on_disk, 16)
    make = ranks(dataset, 2, 32, shuffle=shuffle, max_seq_len=SEQ_LEN, **MODES[mode])
    restores_at_every_step(make)


@pytest.mark.parametrize(
    ("mode", "shuffle", "world", "batch"),
    [
        ("streaming", True, 4, 8),
        ("resident", True, 1, 5),
        *(
            slowly(mode, shuffle, world, batch)
            for mode in MODES
            for shuffle in (True, False)
            for world, batch in ((1, 8), (2, 14), (4, 24))
        ),
    ],
)
def test_ranks_and_batch_size_may_change_at_every_step(
    on_disk: str, mode: str, shuffle: bool, world: int, batch: int
) -> None:
    dataset = TokenDataset(on_disk, SEQ_LEN)
    goes_on_elsewhere(
        ranks(dataset, 2, BATCH, shuffle=shuffle, **MODES[mode]),
        ranks(dataset, world, batch, shuffle=shuffle, **MODES[mode]),
    )


@pytest.mark.parametrize(
    ("mode", "shuffle", "before", "after"),
    [
        ("streaming", True, 16, 64),
        ("resident", True, 64, 32),
        ("streaming", False, 16, 64),
        *(
            slowly(mode, shuffle, before, after)
            for mode in MODES
            for shuffle in (True, False)
            for before, after in ((64, 16), (32, 64), (16, 32), (32, 16))
        ),
    ],
)
def test_the_length_of_rows_may_change_at_every_step(
    on_disk: str, mode: str, shuffle: bool, before: int, after: int
) -> None:
    settings = {"shuffle": shuffle, **MODES[mode]}
    first, second = TokenDataset(on_disk, before), TokenDataset(on_disk, after)
    goes_on_elsewhere(
        ranks(first, 2, BATCH * 64 // before, max_seq_len=64, **settings),
        ranks(second, 4, 12, **settings),
    )


@pytest.mark.slow
def test_the_length_of_rows_may_change_on_s3_too(dataset: TokenDataset, uri: str) -> None:
    settings = {"shuffle": True, **MODES["streaming"]}
    goes_on_elsewhere(
        ranks(TokenDataset(uri, 16), 1, 32, max_seq_len=SEQ_LEN, **settings),
        ranks(dataset, 1, BATCH, **settings),
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_length_of_rows_may_change_again_and_again(on_disk: str, mode: str) -> None:
    # 24 lanes of samples of 64 tokens: several changes fall into one round.
    settings = {"shuffle": True, "lanes": 24}
    if mode == "streaming":
        settings["prefetch_bytes"] = 40 * 256
    state: dict[str, Any] | None = None
    seen: list[int] = []
    lengths, most_begun = [64, 16, 32, 8, 64, 16], 0
    for number in range(60):
        dataset = TokenDataset(on_disk, lengths[number % 6])
        loader = token_loader(dataset, 5, max_seq_len=64, **settings)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        iterator = iter(loader)
        for _ in range(1 + number % 4):
            seen += counted(next(iterator))
        state = loader.state_dict()
        most_begun = max(most_begun, len(state["begun"]))
    for batch in loader_at(on_disk, state, settings):
        seen += counted(batch)
    assert sorted(seen) == list(range(SAMPLES * 64))
    assert 2 <= most_begun <= 12


@settings(max_examples=25)
@given(data=st.data(), shuffle=st.booleans(), lanes=st.sampled_from([4, 24, 960]))
def test_whatever_changes_at_a_restart_each_token_is_read_once(
    on_disk: str, data: st.DataObject, shuffle: bool, lanes: int
) -> None:
    state: dict[str, Any] | None = None
    steps: list[list[Batch]] = []
    for run in range(data.draw(st.integers(1, 5))):
        length, world = data.draw(st.sampled_from([8, 16, 32, 64])), data.draw(worlds)
        batch = world * data.draw(st.integers(1, 7))
        dataset = TokenDataset(on_disk, length)
        longest = None if run else 64
        loaders = ranks(dataset, world, batch, shuffle=shuffle, lanes=lanes, max_seq_len=longest)()
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(json.loads(json.dumps(state)))
        iterators = [loader.repeat() for loader in loaders]
        left = min(len(loader.sampler) for loader in loaders)
        for _ in range(data.draw(st.integers(0, 12))):
            if the_state(loaders)["epoch"] or the_state(loaders)["position"] + batch > left:
                break
            steps.append([next(iterator) for iterator in iterators])
        state = the_state(loaders)
    assert state is not None
    steps += epoch(
        restored(ranks(TokenDataset(on_disk, 64), 2, 8, shuffle=shuffle, lanes=lanes), state)
    )
    assert sorted_tokens(steps) == [*range(SAMPLES * 64)]


def loader_at(uri: str, state: dict[str, Any] | None, settings: dict[str, Any]) -> TokenDataLoader:
    loader = token_loader(TokenDataset(uri, 64), 8, **settings)
    assert state is not None
    loader.load_state_dict(state)
    return loader


def counted(batch: dict[str, Any]) -> list[int]:
    labels = batch["labels"].flatten()
    return [int(token) for token in labels[labels >= 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_rebuilt_as_a_torch_loader_a_begun_round_is_the_same(on_disk: str, workers: int) -> None:
    short, long = TokenDataset(on_disk, 16), TokenDataset(on_disk, SEQ_LEN)
    before = token_loader(short, 5, True, max_seq_len=SEQ_LEN, lanes=24)
    before.skip(11)
    loader = token_loader(long, 4, True, lanes=24)
    loader.load_state_dict(before.state_dict())
    rebuilt = torch.utils.data.DataLoader(long, 4, sampler=loader.sampler, num_workers=workers)
    partly = 0
    for ours, torchs in zip(loader, rebuilt, strict=True):
        assert all(torch.equal(ours[name], torchs[name]) for name in ours)
        partly += int(((ours["labels"] == -100).any(dim=1)).sum())
    assert partly == 24


def test_a_loader_takes_its_max_seq_len_from_a_state_unless_it_was_given_one(on_disk: str) -> None:
    long, short = TokenDataset(on_disk, 64), TokenDataset(on_disk, 16)
    state = token_loader(long, 8, True).state_dict()
    assert (state["max_seq_len"], state["seq_len"]) == (64, 64)
    taken = token_loader(short, 8, True)
    taken.load_state_dict(state)
    given = token_loader(short, 8, True, max_seq_len=64)
    assert taken.state_dict() == given.state_dict()
    assert [first_tokens(one) for one in taken] == [first_tokens(one) for one in given]
    assert len(taken) == len(given) == len(taken.sampler) // 8 + 1
    other = token_loader(short, 8, True, max_seq_len=32)
    with pytest.raises(ValueError, match="saved with max_seq_len = 64, this loader has 32"):
        other.load_state_dict(state)


def test_memory_of_shorter_samples_is_not_used_for_longer_ones(on_disk: str) -> None:
    # Blocks of 4 rows before the state is loaded, of 7 rows after it.
    short, settings = TokenDataset(on_disk, 16), {"lanes": 24, "prefetch_bytes": 40 * 7 * 64}
    given = token_loader(short, 8, True, max_seq_len=112, **settings)
    taken = token_loader(short, 8, True, **settings)
    list(taken)
    taken.load_state_dict(given.state_dict())
    assert [counted(one) for one in taken] == [counted(one) for one in given]


@pytest.mark.parametrize("length", [63, 32, 65])
def test_a_max_seq_len_that_rows_do_not_divide_names_both(on_disk: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"max_seq_len={length} must be a multiple .* seq_len 64"):
        token_loader(TokenDataset(on_disk, 64), 8, True, max_seq_len=length)


def test_a_max_seq_len_longer_than_the_data_names_both(on_disk: str) -> None:
    with pytest.raises(ValueError, match=rf"max_seq_len=64000, .* has only {TOKENS} tokens"):
        token_loader(TokenDataset(on_disk, 64), 8, True, max_seq_len=64_000)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_continues_on_other_numbers_of_ranks(on_disk: str, mode: str) -> None:
    dataset = TokenDataset(on_disk, SEQ_LEN)
    lanes = {**MODES[mode], "lanes": 8}

    def made(world: int) -> Make:
        return ranks(dataset, world, BATCH, shuffle=True, **lanes)

    alone = [first_tokens(batch) for batch in made(1)()[0]]
    state, done = None, 0
    for world, steps in ((4, 13), (1, 10), (8, 9), (2, 5)):
        loaders = made(world)()
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(steps):
            step = [first_tokens(next(iterator)) for iterator in iterators]
            assert sorted(token for batch in step for token in batch) == sorted(alone[done])
            done += 1
        states = [loader.state_dict() for loader in loaders]
        assert all(one == states[0] for one in states)
        state = states[0]
