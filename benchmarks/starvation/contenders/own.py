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
        try:
            self._loader = self._function(**given)
        except StokerError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        if not isinstance(self._loader, Iterable):
            kind = type(self._loader).__name__
            raise StokerError(f"--loader {self.spec} returned {kind}: it must return batches")
        epochs = Epochs(
            _Checked(self._loader, self._check, self._failed),
            f"--loader {self.spec} gave no batch in an epoch: it must be something that can be"
            " iterated over again and again, a list or a DataLoader for example, no generator",
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

    def try_first(self, shape: tuple[int, int]) -> None:
        """Take one batch before anything is measured, of (rows, tokens a row at most) `shape`.

        Raises:
            StokerError: it fails, or gives something else; another shape would be another load,
                which nobody could compare.
        """
        ids = next(self.open())["input_ids"]
        rows, most = shape
        if ids.ndim != 2 or len(ids) != rows or ids.shape[1] > most:
            raise StokerError(
                f"--loader {self.spec} gave input_ids of shape {tuple(ids.shape)}, and everyone"
                f" else {shape}: choose --batch-size and --seq-len as it has them"
            )

    def _check(self, batch: object) -> None:
        if not isinstance(batch, Mapping):
            raise self._wrong(type(batch).__name__)
        kinds = {str(key): _kind(value) for key, value in batch.items()}
        tensors = all(isinstance(value, torch.Tensor) for value in batch.values())
        if not tensors or "input_ids" not in kinds or not {"labels", "attention_mask"} & set(kinds):
            raise self._wrong(kinds)
        if batch["input_ids"].is_floating_point():
            raise StokerError(
                f"--loader {self.spec} gave input_ids that are {kinds['input_ids']}: ids are whole"
                " numbers"
            )

    def _wrong(self, found: object) -> StokerError:
        return StokerError(
            f"--loader {self.spec} gave {found}: a batch must be a mapping of tensors with"
            " input_ids, and labels or attention_mask"
        )

    def _failed(self, error: Exception) -> StokerError:
        return StokerError(
            f"--loader {self.spec} failed: {type(error).__name__}: {error} (STOKER_DEBUG=1 shows"
            " where)"
        )


def _kind(value: object) -> str:
    """ "int64" of a tensor, "numpy.ndarray" of what is none."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch.")
    return f"{type(value).__module__}.{type(value).__name__}"


class _Checked(Iterable[Batch]):
    """`loader`, the first batch of each epoch checked, its errors as one line."""

    def __init__(
        self,
        loader: Iterable[Batch],
        check: Callable[[object], None],
        failed: Callable[[Exception], StokerError],
    ) -> None:
        self._loader, self._check, self._failed = loader, check, failed

    def __iter__(self) -> Iterator[Batch]:
        try:
            batches = iter(self._loader)
            for first in batches:
                self._check(first)
                yield first
                del first
                break
            yield from batches
        except StokerError:
            raise
        except Exception as error:
            raise self._failed(error) from error


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
