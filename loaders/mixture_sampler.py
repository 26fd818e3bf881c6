"""The order of a mixture as torch's samplers know it; and its arithmetic from rows to samples."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from loaders.mixture import Mixture
from loaders.mixture_deal import Table, places
from loaders.mixture_shares import Course, Stretch
from loaders.order import Order
from loaders.parts import Deal
from loaders.sampler import OrderSampler, PaddingIndex
from loaders.state import Progress

Ints = npt.NDArray[np.int64]


class MixtureSampler(OrderSampler):
    """Numbers of the mixture's samples for this rank, from where the loader stands.

    An `OrderSampler` whose epoch is the mixture's: only how long it is comes from its own deal.

    Args:
        deals: of each source.
        table: how the ranks share the sources.
        course: which weights hold where.
    """

    def __init__(
        self,
        mixture: Mixture,
        deals: tuple[Deal, ...],
        table: Table,
        course: Course,
        progress: Progress,
        *,
        seed: int,
        batch_size: int,
        drop_last: bool,
    ) -> None:
        self.course = course
        self._mixture, self._deals, self._table = mixture, deals, table
        order = deals[0].order
        length = Order(mixture.samples, 1, order.lanes, seed, order.shuffle)
        super().__init__(
            mixture,
            Deal(length, mixture.seq_len, mixture.seq_len),
            progress,
            batch_size=batch_size,
            drop_last=drop_last,
            rank=table.rank,
            world_size=table.world_size,
        )

    def row(self, epoch: int, position: int) -> int:
        """The number of a row over all epochs of the mixture."""
        return epoch * self._mixture.samples + position

    def here(self) -> Stretch:
        """The weights that hold for the next batch."""
        place = self.place()
        return self.course.at(self.row(place.epoch, place.position))

    def samples_of(self, source: int, rows: Ints) -> Ints:
        """The samples of a source's dataset that are its rows of these numbers, in any order."""
        order = self._deals[source].rows()
        epochs, positions = np.divmod(rows, order.samples)
        samples = np.empty_like(rows)
        for epoch in np.unique(epochs).tolist():
            of_epoch = epochs == epoch
            samples[of_epoch] = order.sample_at(epoch, positions[of_epoch])
        return samples

    def __iter__(self) -> Iterator[int]:
        span = self.current()
        start = self.row(span.epoch, 0)
        stretch = self.course.at(start + span.start)
        stop = stretch.counts(start + span.start)
        for step in range(span.steps):
            end = span.position_after(step + 1)
            first, stop = stop, stretch.counts(start + end)
            rows = self._step(first, stop)
            yield from rows
            padded = -(-(end - span.position_after(step)) // span.world_size)
            yield from [PaddingIndex(0)] * (padded - len(rows))

    def _step(self, first: list[int], stop: list[int]) -> list[int]:
        """This rank's samples in the step that takes those rows of each source."""
        takes = self._table.takes(first, stop)
        numbers = np.empty(sum(take.rows for take in takes), np.int64)
        where = places(tuple(take.rows for take in takes))
        for source, (take, place) in enumerate(zip(takes, where, strict=True)):
            own = self._table.own_rows(source, first[source], take.own)
            rows = np.concatenate([own, np.array(take.taken, np.int64)])
            numbers[place] = self._mixture.parts[source].first + self.samples_of(source, rows)
        found: list[int] = numbers.tolist()
        return found
