"""What every kind of loader is put through: restored at each step of an epoch, it goes on exactly.

A loader here is a list, one for each rank. What counts as read is a token with a label.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from loaders import TokenDataLoader, TokenDataset
from tests.loaders.support import first_tokens, token_loader

Batch = dict[str, torch.Tensor]
Make = Callable[[], Sequence[TokenDataLoader]]


def ranks(dataset: TokenDataset, world: int, global_batch: int, **kwargs: Any) -> Make:
    """Makes the loaders of `world` ranks that share batches of `global_batch` rows."""

    def make() -> list[TokenDataLoader]:
        return [
            token_loader(
                dataset,
                global_batch // world,
                data_parallel_rank=rank,
                data_parallel_size=world,
                **kwargs,
            )
            for rank in range(world)
        ]

    return make


def restores_at_every_step(make: Make) -> None:
    """The tail after each restored state equals the undisturbed one's, to the last label."""
    states, steps, next_epoch = undisturbed(make)
    for number, state in enumerate(states):
        loaders = restored(make, state)
        same(epoch(loaders), steps[number:])
        if number % 20 == 0:
            same(epoch(loaders), next_epoch)


def goes_on_elsewhere(make: Make, other: Make) -> None:
    """From each step on, the loaders of `other` give what is left: each token once, and the same
    batches if they have as many rows and as long ones.
    """
    states, steps, _ = undisturbed(make)
    everything = sorted_tokens(steps)
    batches = [global_batch(step) for step in steps]
    for number, state in enumerate(states):
        tail = epoch(restored(other, state))
        assert sorted_tokens([*steps[:number], *tail]) == everything, number
        if tail and shape(tail[0]) == shape(steps[0]):
            assert [global_batch(step) for step in tail] == batches[number:], number


def undisturbed(make: Make) -> tuple[list[dict[str, Any]], list[list[Batch]], list[list[Batch]]]:
    """States before each step and at the end, the steps of an epoch, and those of the next."""
    loaders = make()
    states, steps = [the_state(loaders)], []
    for step in zip(*loaders, strict=True):
        steps.append([*step])
        states.append(the_state(loaders))
    assert 40 <= len(steps) <= 60
    return states, steps, epoch(loaders)


def the_state(loaders: Sequence[TokenDataLoader]) -> dict[str, Any]:
    """The one state of all ranks."""
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    return states[0]


def restored(make: Make, state: dict[str, Any]) -> Sequence[TokenDataLoader]:
    loaders = make()
    for loader in loaders:
        loader.load_state_dict(json.loads(json.dumps(state)))
    return loaders


def epoch(loaders: Sequence[TokenDataLoader]) -> list[list[Batch]]:
    return [[*step] for step in zip(*loaders, strict=True)]


def same(steps: list[list[Batch]], expected: list[list[Batch]]) -> None:
    assert len(steps) == len(expected)
    for step, wanted in zip(steps, expected, strict=True):
        for batch, other in zip(step, wanted, strict=True):
            assert batch.keys() == other.keys()
            assert all(equal(batch[name], other[name]) for name in batch)


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def sorted_tokens(steps: list[list[Batch]]) -> list[int]:
    """The tokens that count; every token's value is its place in the stream."""
    labels = [batch["labels"].flatten() for step in steps for batch in step]
    every = torch.cat(labels).numpy() if labels else np.zeros(0, np.int64)
    return sorted(every[every >= 0].tolist())


def shape(step: list[Batch]) -> tuple[int, int]:
    """Rows and tokens in a row of a global batch."""
    return sum(len(batch["labels"]) for batch in step), step[0]["labels"].shape[1]


def global_batch(step: list[Batch]) -> list[int]:
    """First tokens of the rows, without padding; which rank has which row doesn't matter."""
    return sorted(token for batch in step for token in first_tokens(batch) if token >= 0)
