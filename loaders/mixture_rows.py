"""Rows of a mixture's sources: a rank's own ones in a stream, those it takes from others singly."""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from loaders.bring import nobody_waits
from loaders.dataset import Sample, TokenDataset
from loaders.mixture_deal import Table

Arrays = Mapping[str, npt.NDArray[Any]]
# What `Singles` have at work at most; they wait for the store nearly all the time.
_THREADS = 8
_EXIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a source: rows `start` to `stop` of arrays [rows, ...] by name."""

    arrays: Arrays
    start: int
    stop: int


class Repeats(Protocol):
    """The loader of one source: a `TokenDataLoader`."""

    def repeat(self) -> Iterator[dict[str, torch.Tensor]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class OwnRows:
    """This rank's own rows of a source from row `row` on, epoch after epoch.

    Reading begins at once.

    Args:
        keys: what there is of each row.
    """

    def __init__(
        self, loader: Repeats, keys: Sequence[str], table: Table, source: int, row: int
    ) -> None:
        """`keys`: of a batch, that have a row for each sample."""
        self._keys = keys
        self._table, self._source = table, source
        self._samples = table.samples[source]
        epoch, position = divmod(row, self._samples)
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "position": position})
        # A rank may own no row at all, of a source with fewer samples than ranks.
        self._batches = loader.repeat() if table.own_left(source, 0) else iter(())
        self._begin_epoch(position)
        self._arrays: Arrays = {}
        self._at = self._stop = 0
        self._dropped = 0

    def drop(self, count: int) -> None:
        """The next `count` rows are not wanted. Doesn't wait for them."""
        self._dropped += count

    def take(self, count: int) -> list[Piece]:
        """The next `count` rows."""
        if not count:
            return []
        dropped, self._dropped = self._dropped, 0
        self._pieces(dropped)
        return self._pieces(count)

    def _pieces(self, count: int) -> list[Piece]:
        pieces = []
        while count:
            if self._at == self._stop:
                self._next_batch()
                continue
            end = min(self._stop, self._at + count)
            pieces.append(Piece(self._arrays, self._at, end))
            count -= end - self._at
            self._at = end
        return pieces

    def _next_batch(self) -> None:
        if not self._with_padding:
            self._begin_epoch(0)
        batch = next(self._batches)
        self._arrays = {name: batch[name].numpy() for name in self._keys}
        rows = len(batch["input_ids"])
        self._at, self._stop = 0, min(rows, self._left)  # behind those lies padding
        self._left -= self._stop
        self._with_padding -= rows

    def _begin_epoch(self, position: int) -> None:
        self._left = self._table.own_left(self._source, position)
        self._with_padding = -(-(self._samples - position) // self._table.world_size)


@dataclass(eq=False)
class Singles:
    """Samples read by themselves, ahead of their use, by daemon threads."""

    _asked: "SimpleQueue[_Asked | None]" = field(default_factory=SimpleQueue)
    _threads: int = 0

    def ask(self, dataset: TokenDataset, samples: Sequence[int]) -> "Future[list[Sample]]":
        """Starts to read them; `result()` waits for them."""
        if self._threads < _THREADS:
            self._threads += 1
            name = f"stoker-single-{self._threads}"
            thread = threading.Thread(target=_serve, args=(self._asked,), name=name, daemon=True)
            thread.start()
            _open_singles.add(self)
            _serving.add(thread)  # it may outlive them
        future: Future[list[Sample]] = Future()
        self._asked.put((dataset, samples, future))
        return future

    def close(self) -> None:
        """Ends the threads when they have read what they are at. Doesn't wait for them."""
        try:
            while (one := self._asked.get_nowait()) is not None:
                one[2].cancel()
        except Empty:
            pass
        for _ in range(self._threads):
            self._asked.put(None)


_Asked = tuple[TokenDataset, Sequence[int], "Future[list[Sample]]"]


def _serve(asked: "SimpleQueue[_Asked | None]") -> None:
    while (one := asked.get()) is not None:
        dataset, samples, future = one
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(dataset.__getitems__(samples))
        except BaseException as error:
            future.set_exception(error)
        del dataset, samples, future, one


_open_singles: weakref.WeakSet[Singles] = weakref.WeakSet()
_serving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _close_all() -> None:
    """At exit, for the reason that `loaders.assemble` has: these threads are in native code too.

    Those that wait for the store would be late, so they are told to give up.
    """
    with nobody_waits():
        for singles in list(_open_singles):
            singles.close()
        until = time.monotonic() + _EXIT_SECONDS
        for thread in list(_serving):
            thread.join(max(0.0, until - time.monotonic()))


atexit.register(_close_all)
os.register_at_fork(after_in_child=_open_singles.clear)
os.register_at_fork(after_in_child=_serving.clear)


def piece_of(sample: Sample) -> Piece:
    """A single sample as a piece of one row."""
    return Piece({name: tensor.numpy()[np.newaxis] for name, tensor in sample.items()}, 0, 1)
