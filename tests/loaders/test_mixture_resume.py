"""A mixture restored: at every step, on other ranks, before and after its weights changed."""

import json
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import Mixture, MixtureLoader
from tests.loaders.mixtures import made, mixture, mixture_loader, ranks, rows, source, steps
from tests.loaders.restoring import goes_on_elsewhere, restored, restores_at_every_step, the_state
from tests.loaders.support import token_loader

SAMPLES = {"code": 130, "tiny": 9, "web": 190}
STEPS = 42  # of an epoch in batches of 8, the last one short
WEIGHTS = {"code": 3, "tiny": 1, "web": 6}
OTHERS = {"code": 1, "tiny": 0, "web": 1}
MODES: dict[str, dict[str, Any]] = {
    "resident": {},
    "streaming": {"prefetch_bytes": 12_000, "lanes": 8},
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return mixture(tmp_path_factory.mktemp("mixture"), SAMPLES, WEIGHTS)


def slowly(*arguments: Any) -> Any:
    """One of many alike: `make test-slow` runs it."""
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("mode", "shuffle", "drop_last", "world"),
    [
        ("streaming", True, False, 2),
        *(
            slowly(*case)
            for case in (
                ("streaming", True, True, 4),
                ("streaming", False, False, 1),
                ("resident", True, False, 1),
                ("resident", False, True, 2),
            )
        ),
    ],
)
def test_a_restored_mixture_gives_the_same_batches_at_every_step(
    mixed: Mixture, mode: str, shuffle: bool, drop_last: bool, world: int
) -> None:
    restores_at_every_step(
        made(mixed, world, 8, shuffle=shuffle, drop_last=drop_last, seed=3, **MODES[mode])
    )


@pytest.mark.parametrize(
    ("mode", "world", "batch"),
    [
        ("resident", 1, 5),
        slowly("streaming", 4, 8),
        slowly("streaming", 2, 14),
        slowly("resident", 4, 24),
    ],
)
def test_ranks_and_batch_size_may_change_at_every_step(
    mixed: Mixture, mode: str, world: int, batch: int
) -> None:
    goes_on_elsewhere(
        made(mixed, 2, 8, shuffle=True, **MODES[mode]),
        made(mixed, world, batch, shuffle=True, **MODES[mode]),
    )


def repeated(loaders: list[MixtureLoader], count: int) -> tuple[list[Any], list[Any]]:
    """The rows of `count` steps, and the state before each; weights change at 20, 21 and 50."""
    together = zip(*(loader.repeat() for loader in loaders), strict=True)
    found, states = [], []
    for step in range(count):
        for at, weights in ((20, OTHERS), (21, WEIGHTS), (50, OTHERS)):
            if step == at:
                for loader in loaders:
                    loader.set_weights(weights)
        states.append(the_state(loaders))
        found.append(rows(next(together)))
    return found, states


AROUND_CHANGES = [0, 19, 20, 21, 22, STEPS - 1, STEPS, 49, 50, 79]


@pytest.mark.parametrize(
    ("mode", "world", "firsts"),
    [
        ("streaming", 2, AROUND_CHANGES),
        slowly("resident", 2, range(80)),
    ],
)
def test_changed_weights_are_restored_before_and_after_the_change(
    mixed: Mixture, mode: str, world: int, firsts: Iterable[int]
) -> None:
    def make() -> list[MixtureLoader]:
        return ranks(mixed, world, 8, shuffle=True, **MODES[mode])

    found, states = repeated(make(), 80)
    assert [state["weights_from"] for state in states[19:23]] == [0, 160, 168, 168]
    for first in firsts:
        last = min((at for at in (20, 21, 50, 80) if at > first), default=80)
        loaders = ranks(mixed, 4, 8, shuffle=True, **MODES[mode])
        for loader in loaders:
            loader.load_state_dict(json.loads(json.dumps(states[first])))
        assert steps(loaders, min(3, last - first)) == found[first : min(last, first + 3)]
    assert all(len(json.dumps(state)) < 300 + 200 * len(SAMPLES) for state in states)


def test_changed_weights_hold_from_the_next_batch_on(mixed: Mixture) -> None:
    for world in (1, 4):
        found, _ = repeated(ranks(mixed, world, 8, shuffle=True), 80)
        for first, stop, weights in ((0, 20, WEIGHTS), (21, 50, WEIGHTS), (50, 80, OTHERS)):
            seen, given, total = Counter[int](), 0, sum(weights.values())
            for step in found[first:stop]:
                seen.update(number for number, _ in step)
                given += len(step)
                for number, weight in enumerate(weights.values()):
                    assert abs(seen[number] - Fraction(weight * given, total)) < Fraction(17, 10)
        # The rows of each source go on where they were: none is left out, none comes twice.
        for number, samples in enumerate(SAMPLES.values()):
            times = Counter(sample for step in found for of, sample in step if of == number)
            epochs, more = divmod(times.total(), samples)
            assert Counter(times.values()) == +Counter(
                {epochs: samples - more if epochs else 0, epochs + 1: more}
            )


@settings(max_examples=8)
@given(
    changes=st.dictionaries(
        st.integers(0, 39), st.lists(st.integers(0, 9), min_size=3, max_size=3)
    ),
    world=st.sampled_from([1, 2, 4]),
    at=st.integers(0, 39),
)
def test_weights_may_change_at_any_steps_on_any_ranks(
    mixed: Mixture, changes: dict[int, list[int]], world: int, at: int
) -> None:
    def go(loaders: list[MixtureLoader], first: int) -> tuple[list[Any], list[Any]]:
        together = zip(*(loader.repeat() for loader in loaders), strict=True)
        found, states = [], []
        for step in range(first, 40):
            states.append(the_state(loaders))
            if any(changes.get(step, ())):
                for loader in loaders:
                    loader.set_weights(dict(zip(sorted(SAMPLES), changes[step], strict=True)))
            found.append(rows(next(together)))
        return found, states

    found, states = go(ranks(mixed, 1, 8, shuffle=True), 0)
    loaders = ranks(mixed, world, 8, shuffle=True)
    for loader in loaders:
        loader.load_state_dict(states[at])
    assert go(loaders, at) == (found[at:], states[at:])


def test_weights_set_after_a_peek_hold_from_the_epochs_beginning(mixed: Mixture) -> None:
    loader = mixture_loader(mixed, 8, True)
    for _ in islice(loader, 5):
        pass
    loader.set_weights(OTHERS)
    given = [rows([batch]) for batch in islice(loader, 20)]
    parts = {part.name: (part.dataset, OTHERS[part.name]) for part in mixed.parts}
    assert given == steps([mixture_loader(Mixture(parts), 8, True)], 20)


def test_a_state_holds_its_weights_whatever_the_mixture_was_made_with(mixed: Mixture) -> None:
    loader = mixture_loader(mixed, 8, True)
    batches = loader.repeat()
    for _ in islice(batches, 30):
        pass
    state = loader.state_dict()
    parts = {part.name: (part.dataset, OTHERS[part.name]) for part in mixed.parts}
    other = mixture_loader(Mixture(parts), 8, True)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert rows([next(iter(other))]) == rows([next(batches)])


def test_an_earlier_epoch_of_other_weights_is_refused_by_a_loader_that_does_not_know_them(
    mixed: Mixture,
) -> None:
    loader = mixture_loader(mixed, 8, True)
    loader.set_epoch(1)
    loader.set_weights(OTHERS)
    again = mixture_loader(mixed, 8, True)
    again.load_state_dict(loader.state_dict())
    loader.set_epoch(0)  # this one has seen all of them
    assert rows([next(iter(loader))])
    again.set_epoch(0)
    with pytest.raises(ValueError, match="row 0 of the mixture lies before row 329"):
        iter(again)
    again.set_epoch(2)
    assert rows([next(iter(again))])


def test_another_place_while_it_repeats_takes_effect_with_the_next_epoch(mixed: Mixture) -> None:
    expected = steps([mixture_loader(mixed, 8, True)], STEPS * 9)
    loader = mixture_loader(mixed, 8, True)
    batches = loader.repeat()
    found = [rows([batch]) for batch in islice(batches, 10)]
    loader.skip(STEPS * 7)
    state = loader.state_dict()
    found += [rows([batch]) for batch in islice(batches, STEPS - 10)]
    assert loader.state_dict() == state
    found += [rows([batch]) for batch in islice(batches, 20)]
    assert found == [*expected[:STEPS], *expected[10 + STEPS * 7 :][:20]]


def test_state_of_other_sources_is_refused_with_both_named(mixed: Mixture, tmp_path: Path) -> None:
    state = mixture_loader(mixed, 8, True).state_dict()
    parts = {part.name: (part.dataset, 1) for part in mixed.parts}

    def refused(sources: Any, message: str, **kwargs: Any) -> None:
        loader = mixture_loader(Mixture(sources, **kwargs), 8, True)
        with pytest.raises(ValueError, match=message):
            loader.load_state_dict(state)

    refused({"web": parts["web"]}, "saved with sources = 'code, tiny, web', this loader has 'web'")
    other = source(str(tmp_path / "other"), 0, 130)
    assert other.stream.dataset.id == mixed.parts[0].dataset.stream.dataset.id
    other = source(str(tmp_path / "more"), 0, 131)
    refused({**parts, "code": (other, 1)}, "saved with source 'code' = {'dataset': '.{16}'}, this")
    refused(parts, "saved with samples = 329, this loader has 330", samples=330)
    for name, other_way in (("seed", {"seed": 4}), ("lanes", {"lanes": 480}), ("shuffle", {})):
        loader = mixture_loader(mixed, 8, name != "shuffle", **other_way)
        with pytest.raises(ValueError, match=f"saved with {name} = .*, this loader has"):
            loader.load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": -1},
        {"position": 10_000},
        {"weights_from": 8},
        {"rows_before": {"code": 1, "tiny": 0, "web": 0}},
        {"rows_before": [0, 0, 0]},
        {"weights": {"code": "1", "tiny": "1"}},
        {"weights": {"code": "1", "tiny": "1", "web": "1e999999999"}},
        {"weights": {"code": 1, "tiny": 1, "web": 1}},
        {"weights": {"code": "0", "tiny": "0", "web": "0"}},
        {"more": 1},
    ],
)
def test_what_is_no_state_is_refused(mixed: Mixture, wrong: dict[str, Any]) -> None:
    loader = mixture_loader(mixed, 8, True)
    state = {**loader.state_dict(), **wrong}
    with pytest.raises(ValueError, match=r"not a Mixture loader's state|weights must not be"):
        loader.load_state_dict(state)
    with pytest.raises(ValueError, match="not a Mixture loader's state"):
        loader.load_state_dict([])  # type: ignore[arg-type]


def test_weights_of_other_names_are_refused(mixed: Mixture) -> None:
    loader = mixture_loader(mixed, 8, True)
    before = loader.state_dict()
    with pytest.raises(ValueError, match="weights are for web, the mixture's sources are code, ti"):
        loader.set_weights({"web": 1})
    assert loader.state_dict() == before


def test_states_are_the_same_on_every_rank_and_json(mixed: Mixture) -> None:
    make = made(mixed, 4, 8, shuffle=True)
    loaders = make()
    for _ in zip(*loaders, strict=True):
        pass
    state = the_state(loaders)
    assert the_state(restored(make, state)) == json.loads(json.dumps(state))


def test_a_mixtures_state_and_a_datasets_are_told_apart(mixed: Mixture) -> None:
    loader, alone = mixture_loader(mixed, 8), token_loader(mixed.parts[0].dataset, 8)
    with pytest.raises(ValueError, match="this is the state of a Mixture's loader"):
        alone.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match="not a Mixture loader's state: it has"):
        loader.load_state_dict(alone.state_dict())
