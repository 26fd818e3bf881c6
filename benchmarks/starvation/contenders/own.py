"""A person's own loader, named on the command line as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.loop.epochs import Epochs
from shards.errors import StokerError


@dataclass
class OwnLoader:
    """What `function` of `module` returns: something to iterate over, epoch after epoch.

    It is called with `seed=` where it takes one, else without arguments. Its batches are mappings
    of tensors, `input_ids` among them, and `labels` or `attention_mask`, from which padding is
    known. What it knows about the way of its batches is asked for where it has a `timeline()` as
    `loaders.DataLoader` does. `workers`: what it is called with as `workers=`; None: not at all.

    Raises:
        StokerError: no such module or function.
    """

    spec: str
    workers: int | None = None
    name: str = field(default="own", init=False)
    bounded: bool = field(default=True, init=False)
    _loader: Any = field(default=None, init=False)
    _begun: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._function = _load(self.spec)

    @property
    def title(self) -> str:
        """See `Contender.title`."""
        return self.spec

    @property
    def note(self) -> str:
        """See `Contender.note`."""
        return "given by --loader"

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`."""
        return nullcontext()

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`; only a function that takes a `seed` can give another order.

        Raises:
            StokerError: it gives nothing, or something else than such batches.
        """
        given: dict[str, int] = {"seed": seed} if self._takes("seed") else {}
        if self.workers is not None:
            given["workers"] = self.workers
        self._loader = self._function(**given)
        if not isinstance(self._loader, Iterable):
            kind = type(self._loader).__name__
            raise StokerError(f"--loader {self.spec} returned a {kind}: it must return batches")
        epochs = Epochs(
            _Checked(self._loader, self._check),
            f"--loader {self.spec} gave no batch in an epoch: it must be something that can be"
            " iterated over again and again, a list or a DataLoader for example",
        )
        self._begun = epochs.begun
        return epochs

    def epochs(self) -> tuple[int, ...]:
        """See `Contender.epochs`."""
        return tuple(self._begun)

    def with_workers(self, workers: int) -> OwnLoader | None:
        """The same with so many, where the function takes `workers`."""
        return replace(self, workers=workers) if self._takes("workers") else None

    def timeline(self) -> np.ndarray | None:
        """See `Contender.timeline`."""
        told = getattr(self._loader, "timeline", None)
        if not callable(told):
            return None
        rows: np.ndarray = told()
        return rows

    def _takes(self, name: str) -> bool:
        try:
            return name in inspect.signature(self._function).parameters
        except ValueError:
            # Some functions written in C tell nobody what they take.
            return False

    def _check(self, batch: object) -> None:
        wanted = "a mapping of tensors with input_ids, and labels or attention_mask"
        keys = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        tensors = isinstance(batch, Mapping) and all(
            isinstance(value, torch.Tensor) for value in batch.values()
        )
        if not tensors or "input_ids" not in keys or not {"labels", "attention_mask"} & set(keys):
            raise StokerError(f"--loader {self.spec} gave {keys}: a batch must be {wanted}")


class _Checked(Iterable[Batch]):
    """`loader`, the first batch of each epoch checked."""

    def __init__(self, loader: Iterable[Batch], check: Callable[[object], None]) -> None:
        self._loader, self._check = loader, check

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        for first in batches:
            self._check(first)
            yield first
            del first
            break
        yield from batches


def _load(spec: str) -> Any:
    module, _, name = spec.partition(":")
    if not module or not name:
        raise StokerError(f"--loader {spec}: it must be module:function")
    # As `python -m` does: a person's module lies where they stand.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise StokerError(f"--loader {spec}: {error}") from error
    if not callable(function):
        raise StokerError(f"--loader {spec}: {module} has no function {name}")
    return function
