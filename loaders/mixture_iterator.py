"""One iteration of a mixture: rows of each source's own loader, copied into batches."""

import logging
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

import numpy as np
import torch

from loaders.dataset import Sample
from loaders.iterator import BatchTimeout
from loaders.mixture import Mixture
from loaders.mixture_batch import batch_of
from loaders.mixture_deal import Table, Take
from loaders.mixture_rows import OwnRows, Piece, Repeats, Singles, piece_of
from loaders.mixture_sampler import MixtureSampler
from loaders.mixture_shares import Stretch
from loaders.sampler import PaddingIndex
from loaders.schedule import Span
from loaders.slabs import Slabs
from loaders.state import Progress
from loaders.stats import Stats

# Rows of other ranks that are being read or wait to be used, and steps looked ahead for them.
_AHEAD_ROWS = 32
_AHEAD_STEPS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixing:
    """What the iterations of a mixture's loader have in common.

    `timeout`, `stall_warning`: seconds, None: none.
    """

    mixture: Mixture
    table: Table
    loaders: Sequence[Repeats]
    sampler: MixtureSampler
    progress: Progress
    stats: Stats
    slabs: Slabs
    timeout: float | None
    stall_warning: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that was thought out: from and to which row of each source, and what to do."""

    first: Sequence[int]
    stop: Sequence[int]
    takes: Sequence[Take]
    singles: "Sequence[Future[list[Sample]] | None]"


class MixtureIterator:
    """Yields the batches of an epoch of the mixture, or of all epochs from there on.

    What it reads ahead of each source doesn't depend on the weights, so these may change between
    any two steps. Its threads end when it is exhausted, closed or garbage-collected.

    Args:
        stretch: the weights that hold where the span begins.
        endless: go on with the next epoch, in the same streams.
        token: from `progress.restart()`: only the newest iterator moves the progress.
    """

    def __init__(
        self, mixing: Mixing, span: Span, stretch: Stretch, *, endless: bool, token: object
    ) -> None:
        self._began: int | None = time.perf_counter_ns()
        self._mixing, self._endless, self._token = mixing, endless, token
        self._over = False
        self._singles = Singles()
        self._own: Sequence[OwnRows] = ()
        self._planned: deque[_Step] = deque()
        self._rows: Sequence[int] = ()
        self._finalizer = weakref.finalize(self, self._singles.close)
        self._go_to(span, stretch)

    def __iter__(self) -> "MixtureIterator":
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        began = time.perf_counter_ns()
        if self._over:
            raise StopIteration
        try:
            while self._step == self._span.steps:
                if not self._next_epoch():
                    raise StopIteration
            return self._batch(began)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Batches of an iteration over the epoch that it is in."""
        return self._span.steps

    def change(self, stretch: Stretch) -> None:
        """Other weights from the next step on: `stretch` begins there."""
        self._stretch = stretch
        self._plan_anew()

    def close(self) -> None:
        """Ends the threads; the iterator is finished."""
        self._over = True
        self._finalizer()
        self._own = ()
        self._planned.clear()

    # Where it stands.

    def _go_to(self, span: Span, stretch: Stretch) -> None:
        """The streams start anew, at the span's first row."""
        mixing = self._mixing
        self._span, self._stretch, self._step = span, stretch, 0
        self._rows = stretch.counts(mixing.sampler.row(span.epoch, span.start))
        self._own = ()  # the streams that there were end first
        self._own = tuple(
            OwnRows(loader, mixing.table, source, row)
            for source, (loader, row) in enumerate(zip(mixing.loaders, self._rows, strict=True))
        )
        self._plan_anew()

    def _next_epoch(self) -> bool:
        """At an epoch's end. Whether there is a next one."""
        mixing = self._mixing
        mixing.progress.exhausted(self._token)
        if not self._endless:
            return False
        self._token = mixing.progress.restart()
        span = mixing.sampler.current()
        stretch = mixing.sampler.course.hold_from(mixing.sampler.row(span.epoch, span.start))
        if span == self._following() and stretch == self._stretch:
            self._span, self._step = span, 0
        else:  # someone went elsewhere: skip, set_epoch, load_state_dict
            self._go_to(span, stretch)
        return True

    def _following(self) -> Span:
        return self._mixing.sampler.span(self._span.epoch + 1, 0)

    # Steps are thought out some time before, so that single rows are there when they are needed.

    def _plan_anew(self) -> None:
        for step in self._planned:
            for single in step.singles:
                if single is not None:
                    single.cancel()
        self._planned.clear()
        self._ahead = 0
        self._bounds = _bounds(self._mixing.sampler, self._span, self._step, self._endless)

    def _next_step(self) -> _Step:
        while not self._planned or (
            self._mixing.table.world_size > 1
            and self._ahead < _AHEAD_ROWS
            and len(self._planned) < _AHEAD_STEPS
        ):
            bounds = next(self._bounds, None)
            if bounds is None:
                break
            step = self._thought_out(*bounds)
            self._ahead += sum(len(take.taken) for take in step.takes)
            self._planned.append(step)
        step = self._planned.popleft()
        self._ahead -= sum(len(take.taken) for take in step.takes)
        return step

    def _thought_out(self, start: int, end: int) -> _Step:
        mixing = self._mixing
        first, stop = self._stretch.counts(start), self._stretch.counts(end)
        takes = mixing.table.takes(first, stop)
        singles: list[Future[list[Sample]] | None] = [None] * len(takes)
        for source, take in enumerate(takes):
            if take.taken:
                samples = mixing.sampler.samples_of(source, np.array(take.taken, np.int64))
                dataset = mixing.mixture.parts[source].dataset
                singles[source] = self._singles.ask(dataset, samples.tolist())
        return _Step(first, stop, takes, singles)

    # A step.

    def _batch(self, began: int) -> dict[str, torch.Tensor]:
        mixing, span, step = self._mixing, self._span, self._next_step()
        pieces = self._pieces(step)
        arrived = time.perf_counter_ns()
        rows = span.position_after(self._step + 1) - span.position_after(self._step)
        rows = -(-rows // span.world_size)
        batch = batch_of(pieces, rows, span.batch_size, mixing.slabs)
        assembled = time.perf_counter_ns()
        self._step += 1
        position = span.position_after(self._step)
        mixing.progress.delivered(self._token, position, last=self._step == span.steps)
        tokens = batch["input_ids"].numel()
        mixing.stats.delivered((began, arrived, assembled, assembled), tokens, began)
        if self._began is not None:
            mixing.stats.first_batch_ns = time.perf_counter_ns() - self._began
            self._began = None
        return batch

    def _pieces(self, step: _Step) -> list[list[Piece]]:
        """The rows of each source."""
        table = self._mixing.table
        pieces = []
        for source, (own, take, single) in enumerate(
            zip(self._own, step.takes, step.singles, strict=True)
        ):
            # At an epoch's end drop_last leaves rows out.
            left_out = table.own_between(source, self._rows[source], step.first[source])
            own.drop(left_out)
            rows = own.take(take.own)
            own.drop(take.given)
            if single is not None:
                rows += [piece_of(sample) for sample in self._result(source, single)]
                self._mixing.stats.moved_rows += len(take.taken)
            pieces.append(rows)
        self._rows = step.stop
        if not any(pieces):  # an epoch's last batch, of fewer rows than ranks
            dataset = self._mixing.mixture.parts[0].dataset
            pieces[0] = [piece_of(*dataset.__getitems__([PaddingIndex(0)]))]
        return pieces

    def _result(self, source: int, single: "Future[list[Sample]]") -> list[Sample]:
        """Waits for rows of other ranks: with a line in the log, or not for ever."""
        mixing = self._mixing
        timeout, warning = mixing.timeout, mixing.stall_warning
        part = mixing.mixture.parts[source]
        what = f"a sample of source {part.name!r} ({part.dataset.uri}) that is read by itself"
        if warning is not None and (timeout is None or warning < timeout):
            try:
                return single.result(warning)
            except FutureTimeout:
                if single.done():
                    raise
            _log.warning("no batch for %g s (step %d): %s", warning, self._step + 1, what)
            timeout = None if timeout is None else timeout - warning
        try:
            return single.result(timeout)
        except FutureTimeout:
            if single.done():
                raise
        raise BatchTimeout(f"no batch within timeout={mixing.timeout:g} s: {what}")


def _bounds(
    sampler: MixtureSampler, span: Span, step: int, endless: bool
) -> Iterator[tuple[int, int]]:
    """First row and end of each step to come, in rows of the mixture."""
    # Not a method: a generator that holds the iterator would keep it, and its threads, alive.
    while True:
        start = sampler.row(span.epoch, 0)
        for number in range(step, span.steps):
            yield start + span.position_after(number), start + span.position_after(number + 1)
        if not endless:
            return
        span, step = sampler.span(span.epoch + 1, 0), 0
