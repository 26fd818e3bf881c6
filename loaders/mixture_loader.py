"""The DataLoader of a Mixture: a loader for each source, and batches of their rows."""

import hashlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils.data

from loaders.arguments import Own, checked
from loaders.dataloader import TokenDataLoader, follower
from loaders.device import CudaCopies, cuda_device
from loaders.mixture import Mixture, Weight
from loaders.mixture_deal import Table, staggered
from loaders.mixture_iterator import Mixing, MixtureIterator
from loaders.mixture_sampler import MixtureSampler
from loaders.mixture_shares import Course, Shares, Stretch
from loaders.mixture_state import MixtureIdentity, load, save, source_identity
from loaders.order import check_world_size
from loaders.sampler import NO_BATCH, OrderBatchSampler, warn_of_no_batch
from loaders.slabs import Slabs
from loaders.state import Progress
from loaders.stats import FetchCounts
from loaders.world import data_parallel, refuse_other_ranks, said_by_nobody

_COUNTS = [name for name in FetchCounts.__dataclass_fields__ if name != "lock"]
_STANDING = ("threads", "batches_ready", "buffer_bytes", "buffer_used_bytes")


class MixtureLoader(TokenDataLoader):
    """Batches of a `Mixture`: as a `TokenDataLoader`'s, with rows of all sources in each.

    Among the first rows of any number, over all ranks, no source is ever 1.7 rows off its share.
    Each source comes in the order of its own, epoch after epoch; its `seed` is made from the
    loader's and its name. An epoch of the mixture is `Mixture.samples` rows; the sources go on
    where they are in the next one.

    Arguments are a `TokenDataLoader`'s, for each source. But:
        max_seq_len: refused: the length of a mixture's rows can't change within a run.
        prefetch_bytes: of all sources together. Small sources that fit are held whole, the others
            share the rest equally. None: for each source what it would have by itself.
        num_workers: threads that read, divided by the weights; each source has at least one.
    """

    over = "Mixture"
    sampler: MixtureSampler

    def _set_up(
        self, dataset: Any, batch_size: int | None, torchs: dict[str, Any], own: Own
    ) -> None:
        if not isinstance(dataset, Mixture):
            raise TypeError(f"a MixtureLoader is for a Mixture, not a {type(dataset).__name__}")
        size = checked(batch_size, torchs, self.over)
        if own.max_seq_len is not None:
            raise ValueError(
                "max_seq_len= does not go with a Mixture: the length of its rows can't change "
                "within a run. Leave it out"
            )
        rank, world_size = data_parallel(
            own.data_parallel_rank, own.data_parallel_size, own.data_parallel_mesh
        )
        check_world_size(world_size, rank, own.lanes)
        given = own.data_parallel_size is not None or own.data_parallel_mesh is not None
        self._ranks_are_a_guess = not given and said_by_nobody()
        self._mixture, self._own = dataset, own
        self._progress = Progress()
        table = _table(dataset, size, rank, world_size)
        self._sources = _loaders(dataset, table, size, torchs, own)
        sampler = MixtureSampler(
            dataset,
            tuple(loader.sampler.deal for loader in self._sources),
            table,
            Course(Stretch(0, (0,) * len(dataset.parts), dataset.shares)),
            self._progress,
            seed=own.seed,
            batch_size=size,
            drop_last=torchs["drop_last"],
        )
        device = cuda_device(own.device)
        pinned = device is not None or (torchs["pin_memory"] and torch.cuda.is_available())
        self._mixing = Mixing(
            mixture=dataset,
            table=table,
            loaders=self._sources,
            sampler=sampler,
            progress=self._progress,
            stats=self._stats,
            slabs=Slabs(pinned=pinned, narrow=device is not None),
            copies=None if device is None else CudaCopies(device),
            timeout=torchs["timeout"] or None,
            stall_warning=own.stall_warning_s or None,
        )
        self._progress.on_another_epoch = follower(self)
        self._newest: weakref.ref[MixtureIterator] | None = None
        torch.utils.data.DataLoader.__init__(
            self,
            dataset,
            size,
            sampler=sampler,
            collate_fn=None if dataset.form.plain else dataset.collate,
            drop_last=torchs["drop_last"],
            pin_memory=torchs["pin_memory"],
        )
        # torch made one of its own, and refuses to have it replaced by assignment.
        vars(self)["batch_sampler"] = OrderBatchSampler(sampler, size, torchs["drop_last"])

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        """An iteration of the current epoch of the mixture, as a `TokenDataLoader`'s."""
        warn_of_no_batch(self.sampler)
        return self._iteration(endless=False)

    def repeat(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches without end, as a `TokenDataLoader`'s."""
        if not len(self):
            raise ValueError(NO_BATCH)
        self._progress.go_on()
        return self._iteration(endless=True)

    def _iteration(self, *, endless: bool) -> MixtureIterator:
        if self._ranks_are_a_guess:
            refuse_other_ranks()
        token = self._progress.restart()
        span = self.sampler.current()
        stretch = self.sampler.course.hold_from(self.sampler.row(span.epoch, span.start))
        iterator = MixtureIterator(self._mixing, span, stretch, endless=endless, token=token)
        self._newest = weakref.ref(iterator)
        return iterator

    def _follow(self) -> None:
        newest = self._newest() if self._newest is not None else None
        if newest is not None and not newest.begun:
            token = self._progress.restart()
            span = self.sampler.current()
            stretch = self.sampler.course.hold_from(self.sampler.row(span.epoch, span.start))
            newest.follow(span, stretch, token)

    def set_weights(self, weights: Mapping[str, Weight]) -> None:
        """Other weights from the next batch on, in the mixture's unit; the state records where.

        All ranks must call it at the same step.

        Raises:
            ValueError: other names than the sources', or weights that are none.
        """
        self._change(self._mixture.shares_of(weights))

    def _change(self, shares: Shares) -> None:
        place = self.sampler.place()
        row = self.sampler.row(place.epoch, place.position)
        stretch = self.sampler.course.change(row, shares)
        newest = self._newest() if self._newest is not None else None
        if newest is not None:
            newest.change(stretch)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, as a `TokenDataLoader`'s; and the weights, and from which row on.

        `batch_size` and the number of ranks may be different when it is loaded.
        """
        return save(self._identity(), self.sampler.place(), self.sampler.here())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved, with the weights that held there.

        Weights that the Mixture was made with are those of a run's beginning: to change them, call
        `set_weights` after this.

        Raises:
            ValueError: a state of other sources, another seq_len, seed, lanes, length of epochs,
                order or format; both are named.
        """
        place, stretch = load(state, self._identity())
        self.sampler.course = Course(stretch)
        self.sampler.restore(place)

    def _identity(self) -> MixtureIdentity:
        order = self.sampler.deal.order
        sources = zip(self._mixture.names, self._sources, strict=True)
        return MixtureIdentity(
            seq_len=self._mixture.seq_len,
            samples=self._mixture.samples,
            seed=order.seed,
            shuffle=order.shuffle,
            lanes=order.lanes,
            sources={name: source_identity(loader.state_dict()) for name, loader in sources},
        )

    def stats(self) -> dict[str, Any]:
        """As a `TokenDataLoader`'s, summed over the sources; and of each source in `sources`:

        `weight`: its share of the rows now; `rows`, `tokens`: that the run has given of it, over
        all ranks; `epochs`: those rows over the source's own number.
        `moved_rows`: that this rank read by themselves, since other ranks own them. Their reads are
        not among the other figures.
        """
        stats = self._stats.summary()
        of_sources = [loader.stats() for loader in self._sources]
        for name in (*_COUNTS, *_STANDING):
            stats[name] = sum(one[name] for one in of_sources)
        place, stretch = self.sampler.place(), self.sampler.here()
        rows = stretch.counts(self.sampler.row(place.epoch, place.position))
        stats["epoch"], stats["position"] = place.epoch, place.position
        stats["moved_rows"] = self._stats.moved_rows
        stats["sources"] = {
            part.name: {
                "weight": float(weight),
                "rows": count,
                "tokens": count * self._mixture.seq_len,
                "epochs": count / part.dataset.samples,
            }
            for part, weight, count in zip(
                self._mixture.parts, stretch.shares.weights, rows, strict=True
            )
        }
        return stats


def _table(mixture: Mixture, batch_size: int, rank: int, world_size: int) -> Table:
    """Rows of small sources are moved first: they are the likeliest to be in memory or a cache."""
    datasets = [part.dataset for part in mixture.parts]
    sizes = [dataset.samples * dataset.sample_bytes for dataset in datasets]
    giving = sorted(range(len(sizes)), key=lambda number: (sizes[number], number))
    samples = tuple(dataset.samples for dataset in datasets)
    turns = staggered(mixture.shares.weights, batch_size, world_size)
    return Table(samples, tuple(giving), turns, rank, world_size)


def _loaders(
    mixture: Mixture, table: Table, batch_size: int, torchs: Mapping[str, Any], own: Own
) -> tuple[TokenDataLoader, ...]:
    """Of each source: batches of about as many rows as a batch of the mixture has of it."""
    shared = {**vars(own), "data_parallel_mesh": None, "data_parallel_size": table.world_size}
    shared["device"] = None  # it is the mixture's batches that are copied
    datasets = [part.dataset for part in mixture.parts]
    bytes_of = [dataset.samples * dataset.row_bytes for dataset in datasets]
    budgets = _divided(own.prefetch_bytes, bytes_of)
    workers = torchs["num_workers"]
    loaders = []
    for number, (part, weight) in enumerate(
        zip(mixture.parts, mixture.shares.weights, strict=True)
    ):
        mine = {
            "seed": _seed(own.seed, part.name),
            "data_parallel_rank": table.rank_in(number),
            "prefetch_bytes": budgets[number],
        }
        try:
            loader = TokenDataLoader(
                part.dataset,
                max(1, round(batch_size * weight)),
                torchs["shuffle"],
                num_workers=workers and max(1, round(workers * weight)),
                timeout=torchs["timeout"],
                prefetch_factor=torchs["prefetch_factor"],
                **{**shared, **mine},
            )
        except ValueError as error:
            raise ValueError(f"source {part.name!r} of the mixture: {error}") from error
        loaders.append(loader)
    return tuple(loaders)


def _seed(seed: int, name: str) -> int:
    """A seed of its own for each source. It is part of the order: never to be changed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _divided(limit: int | None, sizes: Sequence[int]) -> list[int | None]:
    """`limit` bytes over sources of these sizes: all of the small ones, equal parts of the rest."""
    budgets: list[int | None] = [None] * len(sizes)
    if limit is None:
        return budgets
    left = sorted(range(len(sizes)), key=lambda number: sizes[number])
    while left:
        number, *others = left
        budgets[number] = min(sizes[number], limit // len(left))
        limit -= budgets[number] or 0
        left = others
    return budgets
