"""The order as torch's samplers know it, for whoever takes a loader apart and builds it anew."""

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Dataset, DistributedSampler

from loaders.parts import Deal, History
from loaders.schedule import Span
from loaders.state import Place, Progress
from loaders.whole import whole

NO_BATCH = "an epoch has no whole batch: lower batch_size, or drop_last=False"


def warn_of_no_batch(sampler: "OrderSampler") -> None:
    """Where an iteration begins that will never give anything: a `for` loop says nothing of it."""
    if len(sampler):
        return
    ranks, rows = sampler.num_replicas, sampler.global_batch
    warnings.warn(
        f"this loader has no batch: drop_last=True, and {sampler.deal.rows().samples:,} samples "
        f"are less than batch_size {rows // ranks:,} x {ranks} ranks = {rows:,}. Lower batch_size, "
        "or give drop_last=False",
        stacklevel=3,
    )


class PaddingIndex(int):
    """An index that stands for a padding row: `TokenDataset` returns zeros, labels all -100."""


class PartlyRead(int):
    """An index of a sample whose first `read` tokens were read before `seq_len` changed: their
    labels are -100.
    """

    read: int

    @classmethod
    def of(cls, sample: int, read: int) -> "PartlyRead":
        index = cls(sample)
        index.read = read
        return index


class OrderSampler(DistributedSampler[int]):
    """Sample numbers of this rank, in Stoker's order, from where the loader stands.

    A `DistributedSampler` to those who look (Lightning, accelerate). Passing through it moves
    nothing: it starts where a new iteration of the loader would, and `set_epoch` sets the loader's.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        deal: Deal,
        progress: Progress,
        *,
        batch_size: int,
        drop_last: bool,
        rank: int,
        world_size: int,
    ) -> None:
        self._progress = progress
        self._batch_size = batch_size
        order = deal.order
        self._deal = deal
        super().__init__(dataset, world_size, rank, order.shuffle, order.seed, drop_last)
        self.deal = deal

    @property
    def deal(self) -> Deal:
        """How the dataset's tokens are dealt."""
        return self._deal

    @deal.setter
    def deal(self, deal: Deal) -> None:
        self._deal = deal
        self.num_samples = len(self)
        self.total_size = self.num_samples * self.num_replicas

    @property
    def global_batch(self) -> int:
        """Rows of a batch over all ranks."""
        return self._batch_size * self.num_replicas

    def span(self, epoch: int, start: int, begun: History = ()) -> Span:
        return Span(
            self._deal.rows(start, begun),
            epoch,
            start,
            self._batch_size,
            self.drop_last,
            self.rank,
            self.num_replicas,
        )

    def current(self) -> Span:
        """What a new iteration goes over."""
        epoch, start = self._progress.epoch, self._progress.start
        return self.span(epoch, start, self._progress.begun(start))

    def place(self) -> Place:
        """Where the loader stands."""
        now = self._progress
        return Place(
            epoch=now.epoch,
            position=now.position,
            seq_len=self._deal.seq_len,
            global_batch=self.global_batch,
            begun=now.begun(now.position),
        )

    def restore(self, place: Place) -> None:
        """Go to a place in rows of this deal."""
        until = self._deal.begun_until(place.position, place.begun)
        self._progress.go_to(place.epoch, place.position, place.begun, until)

    def skip(self, steps: int) -> None:
        """Go `steps` batches on, over the ends of epochs too. Costs the same for any number.

        Raises:
            TypeError: no whole number.
            ValueError: a negative number, or an epoch has no batches.
        """
        steps = whole("steps", steps, 0)
        if not steps:
            return
        now = self._progress
        epoch, start = now.epoch, now.position
        left = self.span(epoch, start, now.begun(start))
        if steps <= left.steps:
            now.skip_to(epoch, left.position_after(steps), last=steps == left.steps)
            return
        an_epoch = self.span(0, 0)
        if not an_epoch.steps:
            raise ValueError(NO_BATCH)
        epochs, steps = divmod(steps - left.steps - 1, an_epoch.steps)
        last = steps + 1 == an_epoch.steps
        now.skip_to(epoch + 1 + epochs, an_epoch.position_after(steps + 1), last=last)

    def __iter__(self) -> Iterator[int]:
        padding, span = PaddingIndex(0), self.current()
        read = span.read_before.tolist()
        for row, sample in enumerate(span.samples()):
            if sample < 0:
                yield padding
            elif row < len(read) and read[row]:
                yield PartlyRead.of(sample, read[row])
            else:
                yield sample

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


class OrderBatchSampler(BatchSampler):
    """The order in batches. HF's Trainer, when it resumes inside an epoch, builds a plain torch
    loader over this one and tells the epoch to nobody else.
    """

    sampler: OrderSampler

    def __init__(self, sampler: OrderSampler, batch_size: int, drop_last: bool) -> None:
        super().__init__(sampler, batch_size, drop_last)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)
