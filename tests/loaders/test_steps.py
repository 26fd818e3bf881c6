"""Training by steps: skipping some, going on over epochs, evaluating in between."""

import gc
import warnings
from itertools import chain, islice
from typing import Any

import pytest

from loaders import TokenDataLoader, TokenDataset
from loaders.blocks import Rows
from tests.loaders.restoring import same
from tests.loaders.support import (
    Modes,
    first_tokens,
    stoker_threads,
    token_dataset,
    token_loader,
    wait_until,
)

SEQ_LEN = 64
SAMPLES = 405


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    folder = tmp_path_factory.mktemp("steps")
    return token_dataset(str(folder / "tokens"), SAMPLES * SEQ_LEN + 17, seq_len=SEQ_LEN)


@pytest.fixture(params=Modes)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return Modes[request.param]


def tokens(batches: Any) -> list[list[int]]:
    return [first_tokens(batch) for batch in batches]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [1, 4])
def test_skipping_steps_is_as_if_they_had_been_delivered(
    dataset: TokenDataset, drop_last: bool, world: int
) -> None:
    def made() -> TokenDataLoader:
        return token_loader(
            dataset, 32 // world, True, drop_last=drop_last,
            data_parallel_rank=world - 1, data_parallel_size=world,
        )  # fmt: skip

    walking = made()
    an_epoch = len(walking)
    states = [walking.state_dict()]
    for _ in range(3):
        for batch in islice(walking, an_epoch):
            del batch
            states.append(walking.state_dict())
    for steps, state in enumerate(states):
        skipping = made()
        skipping.skip(steps)
        assert skipping.state_dict() == state, steps
        skipping = made()
        skipping.skip(steps // 3)
        skipping.skip(steps - steps // 3)
        assert skipping.state_dict() == state, steps


def test_batches_after_a_skip_are_those_that_would_have_come(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    epochs = [list(loader), list(loader), list(loader)]
    for steps in (0, 1, 50, 51, 52, 101, 102, 110):
        skipping = token_loader(dataset, 8, True, **mode)
        skipping.skip(steps)
        epoch, step = divmod(steps, 51)
        same([[batch] for batch in skipping], [[batch] for batch in epochs[epoch][step:]])


def test_skipping_a_trillion_steps_is_arithmetic(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 8, True)
    loader.skip(10**12)
    assert loader.state_dict()["epoch"] == 10**12 // 51
    assert loader.state_dict()["position"] == 10**12 % 51 * 8
    assert loader.stats()["requests"] == 0


def test_skipping_inside_an_iteration_takes_effect_with_the_next(dataset: TokenDataset) -> None:
    expected = tokens(token_loader(dataset, 8, True))
    loader = token_loader(dataset, 8, True)
    iterator = iter(loader)
    next(iterator)
    loader.skip(10)
    state = loader.state_dict()
    assert first_tokens(next(iterator)) == expected[1]
    assert loader.state_dict() == state
    assert tokens(loader) == expected[11:]


def test_skipping_backwards_is_refused(dataset: TokenDataset) -> None:
    with pytest.raises(ValueError, match="steps must not be negative, not -1"):
        token_loader(dataset, 8).skip(-1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_repeat_goes_on_over_epochs(
    dataset: TokenDataset, mode: dict[str, Any], shuffle: bool
) -> None:
    by_epochs = token_loader(dataset, 8, shuffle, **mode)
    expected = [*chain.from_iterable(tokens(by_epochs) for _ in range(3))]
    loader = token_loader(dataset, 8, shuffle, **mode)
    assert tokens(islice(loader.repeat(), 3 * 51)) == expected


def test_repeat_goes_on_where_the_last_one_was_left(dataset: TokenDataset) -> None:
    expected = tokens(islice(token_loader(dataset, 8, True).repeat(), 120))
    for size in (7, 51, 60):
        loader = token_loader(dataset, 8, True)
        pieces = [tokens(islice(loader.repeat(), size)) for _ in range(120 // size)]
        assert [*chain.from_iterable(pieces)] == expected[: len(pieces) * size]


def test_repeat_is_restored_at_every_step(dataset: TokenDataset, mode: dict[str, Any]) -> None:
    loader = token_loader(dataset, 8, True, **mode)
    batches = loader.repeat()
    states, expected = [loader.state_dict()], []
    for batch in islice(batches, 110):
        expected.append(first_tokens(batch))
        states.append(loader.state_dict())
    for step in range(0, 105):
        restored = token_loader(dataset, 8, True, **mode)
        restored.load_state_dict(states[step])
        assert tokens(islice(restored.repeat(), 5)) == expected[step : step + 5], step


def test_ranks_repeat_in_step(dataset: TokenDataset) -> None:
    ranks = [
        token_loader(dataset, 2, True, data_parallel_rank=rank, data_parallel_size=4)
        for rank in range(4)
    ]
    alone = tokens(islice(token_loader(dataset, 8, True).repeat(), 110))
    repeats = [loader.repeat() for loader in ranks]
    for batch in alone:
        together = [token for one in repeats for token in first_tokens(next(one)) if token >= 0]
        assert sorted(together) == sorted(batch)


def test_threads_end_when_repeat_is_left(dataset: TokenDataset) -> None:
    gc.collect()
    wait_until(lambda: not stoker_threads())
    loader = token_loader(dataset, 8, True, prefetch_factor=2)
    batches = loader.repeat()
    next(batches)
    assert stoker_threads()
    del batches
    wait_until(lambda: not stoker_threads())


def test_the_next_epoch_is_read_before_the_last_batch_is_taken(dataset: TokenDataset) -> None:
    once = token_loader(dataset, 8, True, **Modes["streaming"])
    list(once)
    of_an_epoch = once.stats()["requests"]
    loader = token_loader(dataset, 8, True, **Modes["streaming"])
    batches = loader.repeat()
    next(batches)
    wait_until(lambda: loader.stats()["batches_ready"] == 50)
    next(batches)
    wait_until(lambda: loader.stats()["requests"] > of_an_epoch)
    assert loader.state_dict()["epoch"] == 0
    assert loader.stats()["buffer_bytes"] <= Modes["streaming"]["prefetch_bytes"]


def test_memory_is_used_again_from_epoch_to_epoch(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    made = []
    original = Rows.empty

    def counting(*arguments: Any) -> Rows:
        made.append(arguments)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "empty", counting)
        loader = token_loader(dataset, 8, True, **mode)
        for step, _ in enumerate(islice(loader.repeat(), 51 * 4)):
            if step % 51 == 25:  # everything of this epoch is made before its end
                wait_until(lambda: loader.stats()["batches_ready"] == 25)
    assert len(made) == 1


def test_another_iteration_beside_repeat_disturbs_neither(dataset: TokenDataset) -> None:
    mode = Modes["streaming"]
    expected = tokens(islice(token_loader(dataset, 8, True, **mode).repeat(), 3 * 51))
    loader = token_loader(dataset, 8, True, **mode)
    batches = loader.repeat()
    seen = tokens(islice(batches, 60))  # over the first edge, where memory is handed on
    loader.set_epoch(0)
    pairs = [*zip(loader, islice(batches, 42), strict=False)]
    assert [first_tokens(one) for one, _ in pairs] == expected[:42]
    assert seen + [first_tokens(other) for _, other in pairs] == expected[:102]


@pytest.mark.parametrize("steps", [1, 49, 50, 51])
@pytest.mark.parametrize("go", ["skip", "set_epoch", "load_state_dict"])
def test_going_elsewhere_while_it_repeats_takes_effect_with_the_next_epoch(
    dataset: TokenDataset, mode: dict[str, Any], steps: int, go: str
) -> None:
    expected = [tokens(one) for one in [token_loader(dataset, 8, True, **mode)] * 10]
    loader = token_loader(dataset, 8, True, **mode)
    batches = loader.repeat()
    seen = tokens(islice(batches, steps))
    if go == "skip":
        loader.skip(7 * 51 + 3)
    elif go == "set_epoch":
        loader.set_epoch(7)
    else:
        loader.load_state_dict({**loader.state_dict(), "epoch": 7, "position": 24})
    state = loader.state_dict()
    seen += tokens(islice(batches, 51 - steps))
    assert seen == expected[0]
    assert loader.state_dict() == state
    at = state["position"] // 8
    then = [*expected[state["epoch"]], *expected[state["epoch"] + 1]]
    assert tokens(islice(batches, 60)) == then[at : at + 60]


def test_an_epoch_without_a_batch_is_refused_before_anyone_waits(dataset: TokenDataset) -> None:
    loader = token_loader(dataset, 500, True, drop_last=True)
    words = r"drop_last=True, and 405 samples are less than batch_size 500 x 1 ranks = 500\. Lower"
    for _ in range(2):
        with pytest.warns(UserWarning, match=words) as warned:
            assert list(loader) == []
        assert [one.filename for one in warned] == [__file__]
    for endless in (loader.repeat, lambda: loader.skip(1)):
        with pytest.raises(ValueError, match="an epoch has no whole batch"):
            endless()


def test_a_loader_with_batches_warns_of_nothing_where_an_epoch_has_none_left(
    dataset: TokenDataset,
) -> None:
    """What was restored at an epoch's end, in smaller batches than there is left of it."""
    loader = token_loader(dataset, 202, True, drop_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.skip(2)
        restored = token_loader(dataset, 100, True, drop_last=True)
        restored.load_state_dict(loader.state_dict())
        assert [len(list(restored)), len(list(restored))] == [0, 4]


def test_evaluating_beside_training_moves_nothing_of_it(
    dataset: TokenDataset, mode: dict[str, Any]
) -> None:
    # Both over the same TokenDataset object, and one seed: as near to each other as they come.
    expected = tokens(islice(token_loader(dataset, 8, True, **mode).repeat(), 60))
    training = token_loader(dataset, 8, True, **mode)
    evaluation = token_loader(dataset, 8, True, **mode)
    seen = []
    for step, batch in enumerate(islice(training.repeat(), 60)):
        seen.append(first_tokens(batch))
        if step % 25 == 0:
            before = training.state_dict()
            evaluation.set_epoch(1)
            evaluation.set_epoch(0)
            assert tokens(evaluation) == expected[:51]
            evaluation.skip(3)
            evaluation.load_state_dict(before)
            assert training.state_dict() == before
            assert training.sampler.epoch == before["epoch"]
    assert seen == expected
