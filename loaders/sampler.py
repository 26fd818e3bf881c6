"""The order as torch's samplers know it, for whoever takes a loader apart and builds it anew."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, DistributedSampler

from loaders.order import Order
from loaders.schedule import Span
from loaders.state import Progress


class PaddingIndex(int):
    """An index that stands for a padding row: `TokenDataset` returns zeros, labels all -100."""


class OrderSampler(DistributedSampler[int]):
    """Sample numbers of this rank, in Stoker's order, from where the loader stands.

    A `DistributedSampler` to those who look (Lightning, accelerate). Passing through it moves
    nothing: it starts where a new iteration of the loader would, and `set_epoch` sets the loader's.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: Order,
        progress: Progress,
        *,
        batch_size: int,
        drop_last: bool,
        rank: int,
        world_size: int,
    ) -> None:
        self._order = order
        self._progress = progress
        self._batch_size = batch_size
        super().__init__(dataset, world_size, rank, order.shuffle, order.seed, drop_last)
        self.num_samples = len(self)
        self.total_size = self.num_samples * world_size

    def span(self, epoch: int, start: int) -> Span:
        return Span(
            self._order,
            epoch,
            start,
            self._batch_size,
            self.drop_last,
            self.rank,
            self.num_replicas,
        )

    def __iter__(self) -> Iterator[int]:
        padding = PaddingIndex(0)
        for sample in self.span(self._progress.epoch, self._progress.start).samples():
            yield sample if sample >= 0 else padding

    def __len__(self) -> int:
        """Rows of this rank in a whole epoch, padding included."""
        return self.span(0, 0).padded_rows

    def set_epoch(self, epoch: int) -> None:
        self._progress.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        return self._progress.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        """torch's constructor sets it to 0; the loader's own number rules."""
