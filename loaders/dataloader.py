"""torch's DataLoader, and the same class over a TokenDataset: threads, an order, a state."""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy.typing as npt
import torch
import torch.utils.data
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.data import Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from loaders.arguments import Own, checked, not_negative
from loaders.cached import disk_cache
from loaders.dataset import TokenDataset
from loaders.device import CudaCopies, cuda_device
from loaders.iterator import Budget, Kept, Settings, TokenIterator
from loaders.mixture import Mixture
from loaders.order import DEFAULT_LANES, check_world_size
from loaders.repeat import endless
from loaders.resume import resumed, saved
from loaders.sampler import NO_BATCH, OrderBatchSampler, OrderSampler, warn_of_no_batch
from loaders.schedule import Span
from loaders.slabs import Slabs
from loaders.state import Progress
from loaders.stats import Stats
from loaders.timed import TimedMulti, TimedSingle
from loaders.world import data_parallel, refuse_other_ranks, said_by_nobody


class DataLoader(torch.utils.data.DataLoader[Any]):
    """A `torch.utils.data.DataLoader`, with the same arguments.

    Over any dataset but a `TokenDataset` it is torch's to the last keyword, and adds `stats()`.
    Over a `TokenDataset` it is a `TokenDataLoader`: see there what each argument means. Over a
    `Mixture` it is a `MixtureLoader`.
    """

    over = "Dataset"  # what it is a loader of

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        wanted = _class_for(args[0] if args else kwargs.get("dataset"))
        if issubclass(cls, wanted):
            return object.__new__(cls)
        if cls is not DataLoader:
            raise TypeError(
                f"{cls.__name__} is given a {wanted.over}: derive it from loaders.{wanted.__name__}"
            )
        chosen: type = wanted
        return object.__new__(chosen)

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int = 0,
        lanes: int = DEFAULT_LANES,
        max_seq_len: int | None = None,
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        data_parallel_mesh: DeviceMesh | None = None,
        prefetch_bytes: int | None = None,
        stall_warning_s: float = 60.0,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        own = Own(
            seed=seed,
            lanes=lanes,
            max_seq_len=max_seq_len,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
            data_parallel_mesh=data_parallel_mesh,
            prefetch_bytes=prefetch_bytes,
            stall_warning_s=stall_warning_s,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            device=device,
        )
        torchs = {
            "shuffle": shuffle,
            "sampler": sampler,
            "batch_sampler": batch_sampler,
            "num_workers": num_workers,
            "collate_fn": collate_fn,
            "pin_memory": pin_memory,
            "drop_last": drop_last,
            "timeout": timeout,
            "worker_init_fn": worker_init_fn,
            "multiprocessing_context": multiprocessing_context,
            "generator": generator,
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
            "pin_memory_device": pin_memory_device,
            "in_order": in_order,
        }
        self._stats = Stats()
        self._set_up(dataset, batch_size, torchs, own)

    def _set_up(
        self, dataset: Any, batch_size: int | None, torchs: dict[str, Any], own: Own
    ) -> None:
        for name, value in vars(own).items():
            if value != getattr(Own, name):
                raise ValueError(
                    f"{name}= is for a TokenDataset; this is a {type(dataset).__name__}, "
                    "over which DataLoader is torch's"
                )
        super().__init__(dataset, batch_size, **torchs)

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if self.num_workers == 0:
            return TimedSingle(self)
        self.check_worker_number_rationality()
        return TimedMulti(self)

    def stats(self) -> dict[str, Any]:
        """`batches` taken, `wait_seconds` spent in `next()`, `first_batch_seconds`."""
        return self._stats.waits()


class TokenDataLoader(DataLoader):
    """Batches of a `TokenDataset`: dicts `input_ids`, `labels`, int64 [batch_size, seq_len].

    `labels` is a tensor of its own, equal to `input_ids` or one token ahead (see `TokenDataset`),
    with -100 where the dataset's loss mask is 0 and in padding rows. The tensors of a batch stay
    valid as long as anyone holds them. Other keys are the dataset's choice: see `TokenDataset`.

    torch's arguments, over a TokenDataset:
        batch_size: rows of a batch on this rank; not None.
        shuffle: Stoker's order of `seed` and epoch (see `loaders.order`); False: as stored.
        num_workers: threads that read; 0: automatic (4 for paths, 16 for S3). Never processes.
        pin_memory: batches in page-locked memory if there is a CUDA device, as torch does.
        drop_last: leave out the last global batch if it is smaller than the others. Otherwise it
            is short, and with several ranks some may have a last row of padding (`input_ids` 0,
            `labels` -100), so that all have the same number of steps and rows.
        timeout: seconds after which a batch that does not come is a `BatchTimeout` that says what
            is being waited for; 0: never.
        prefetch_factor: finished batches kept ready, times max(1, num_workers); None: automatic.
        persistent_workers: threads end with each iteration and cost nothing to start; what is
            worth keeping, memory and connections, is always kept.
        pin_memory_device: "" or a CUDA device, as torch (which has deprecated it).
        in_order: batches always come in order, so True and False mean the same.
        sampler, batch_sampler, collate_fn, generator, worker_init_fn, multiprocessing_context:
            refused with what to use instead.

    Its own arguments:
        seed: names the shuffle; kept in the state.
        lanes: blocks that are mixed with each other at a time, over all ranks. The number of ranks
            has to divide it. Kept in the state.
        max_seq_len: deal samples of this many tokens, and read each in parts of `seq_len`, which
            has to divide it: a run may then go on with any other `seq_len` that does. None: the
            dataset's `seq_len`, or that of a state that is loaded. Kept in the state.
        data_parallel_rank, data_parallel_size: None: torch.distributed's, else torchrun's or
            Slurm's environment, else 0 of 1, as they are when the loader is made. Ranks that share
            a model (tensor-, pipeline-, context-parallel) are given equal numbers.
        data_parallel_mesh: instead of those two, a `DeviceMesh` of the data-parallel dimensions
            alone: `mesh["dp"]` or `mesh["replicate", "shard"]`.
        prefetch_bytes: the most memory for tokens read and not yet used. None: 512 MiB, or what
            `lanes` need if that is more. A split that fits is read once and kept.
        stall_warning_s: seconds after which a batch that does not come is a line in the log (of
            `loaders.iterator`) that says what is being waited for; 0: never.
        cache_dir, cache_bytes: a folder on a local disk that keeps what was read, and how many
            bytes of it, at least a block, over all processes that use the folder. None: nothing is
            kept.
        device: batches come on this CUDA device, copied on a stream of their own while the steps
            before run. Without CUDA, or with "cpu", they stay where they are.

    As an attribute it shows what a loader without workers would (`num_workers` 0, `timeout` 0), and
    `sampler` is its order, so that whoever rebuilds it as a torch DataLoader gets the same samples.
    """

    over = "TokenDataset"
    sampler: OrderSampler
    # accelerate leaves a loader that says the first as it is, and saves and restores the state of
    # one that says the second, in `Accelerator.save_state` and `load_state`.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def _set_up(
        self, dataset: Any, batch_size: int | None, torchs: dict[str, Any], own: Own
    ) -> None:
        size = checked(batch_size, torchs, self.over)
        rank, world_size = data_parallel(
            own.data_parallel_rank, own.data_parallel_size, own.data_parallel_mesh
        )
        given = own.data_parallel_size is not None or own.data_parallel_mesh is not None
        self._check_ranks = _nothing if given or not said_by_nobody() else refuse_other_ranks
        shuffle = bool(torchs["shuffle"])
        longest = dataset.seq_len if own.max_seq_len is None else own.max_seq_len
        deal = dataset.deal(own.lanes, own.seed, shuffle, longest)
        check_world_size(world_size, rank, own.lanes)
        self._tokens: TokenDataset = dataset
        self._own = own
        self._budget = partial(
            Budget.of, dataset, world_size=world_size, batch=size, limit=own.prefetch_bytes
        )
        self._progress = Progress()
        device = cuda_device(own.device)
        self._progress.on_another_epoch = follower(self)
        prefetch_factor, workers = torchs["prefetch_factor"], torchs["num_workers"]
        budget = self._budget(deal.rows())
        self._settings = Settings(
            budget=budget,
            threads=workers,
            ready_batches=None if prefetch_factor is None else prefetch_factor * max(1, workers),
            timeout=torchs["timeout"],
            stall_warning=not_negative("stall_warning_s", own.stall_warning_s),
            cache=disk_cache(own.cache_dir, own.cache_bytes, dataset, budget, self._stats),
            copies=None if device is None else CudaCopies(device),
        )
        pinned = device is not None or (torchs["pin_memory"] and torch.cuda.is_available())
        self._kept = Kept(Slabs(pinned=pinned, narrow=device is not None))
        self._last: weakref.ref[TokenIterator] | None = None
        sampler = OrderSampler(
            dataset,
            deal,
            self._progress,
            batch_size=size,
            drop_last=torchs["drop_last"],
            rank=rank,
            world_size=world_size,
        )
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

    def __repr__(self) -> str:
        """One line: who it is, where it stands, what it is over. Nothing is read."""
        order, now, steps = self.sampler, self._progress, len(self)
        left = order.span(now.epoch, now.position, now.begun(now.position)).steps
        return (
            f"{type(self).__name__}(batch_size={self.batch_size}, shuffle={order.shuffle}, rank "
            f"{order.rank} of {order.num_replicas}): epoch {now.epoch}, step {steps - left:,} of "
            f"{steps:,}, over {self.dataset!r}"
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        """An iteration of the current epoch, from its beginning or from a restored position.

        An iterator left before its end is forgotten: the next one starts where it had started.
        After the last batch the next iteration is the next epoch's.
        """
        self._check_ranks()
        warn_of_no_batch(self.sampler)
        token = self._progress.restart()
        iterator = self._iterate(self.sampler.current())
        self._use(iterator, token)
        return iterator

    def _iterate(self, span: Span) -> TokenIterator:
        return TokenIterator(
            self._tokens, span, self._settings, self._kept, self._progress, self._stats
        )

    def _use(self, iterator: TokenIterator, token: object) -> None:
        iterator.move(token)
        self._last = weakref.ref(iterator)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, as with torch's DistributedSampler.

        The epoch it is in already keeps its (restored) position; any other starts at 0. As there,
        an iterator that was made before and has given no batch yet goes there too.
        """
        self._progress.set_epoch(epoch)

    def _follow(self) -> None:
        last = self._last() if self._last is not None else None
        if last is not None and last.go_to(self.sampler.current()):
            last.move(self._progress.restart())

    def repeat(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches without end, epoch after epoch: `islice(loader.repeat(), steps)`.

        It begins behind the last batch that was delivered, so the next `repeat()` goes on where
        this one was left. An epoch's last batch may be short (see `drop_last`). The next epoch is
        read while the last batches of this one wait to be taken.

        Raises:
            ValueError: an epoch has no batch.
        """
        if not len(self):
            raise ValueError(NO_BATCH)
        self._check_ranks()
        return endless(self._progress, self.sampler, self._iterate, self._use)

    def skip(self, steps: int) -> None:
        """Go on `steps` batches later, as if they had been delivered, over the ends of epochs too.

        Nothing is read. An iteration that is under way goes on as it was, and no longer counts.
        """
        self.sampler.skip(steps)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: a few numbers and strings, the same on every rank, JSON-able.

        Counts the batches that were delivered. `batch_size`, the number of ranks and, to another
        that divides `max_seq_len`, `seq_len` may be different when it is loaded.
        """
        return saved(self._tokens, self.sampler)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved: the next iteration starts there, without a replay.

        Raises:
            ValueError: a state of another dataset, seed, max_seq_len, lanes, order or format; both
                are named.
        """
        sampler, adopt = self.sampler, self._own.max_seq_len is None
        deal, place = resumed(state, self._tokens, sampler.deal, adopt=adopt)
        if deal != sampler.deal:
            self._settings = replace(self._settings, budget=self._budget(deal.rows()))
            self._kept = Kept(self._kept.slabs)
            sampler.deal = deal
        sampler.restore(place)

    def stats(self) -> dict[str, Any]:
        """What was read and waited for, over all iterations, and how things stand now.

        `batches`, `tokens` delivered; what happened at the store and the disk cache, as
        `loaders.stats.FetchCounts` explains it; `wait_seconds` in which `next()` was blocked,
        `first_batch_seconds` of the latest iteration; `padding_share` of packed rows; `epoch`,
        `position`; of the latest iteration if it is still alive: `threads`, `batches_ready`, and of
        the memory for tokens `buffer_bytes`, `buffer_used_bytes`.
        """
        live = self._last() if self._last is not None else None
        now = {"threads": 0, "batches_ready": 0, "buffer_bytes": 0, "buffer_used_bytes": 0}
        if live is not None:
            now = live.assembler.standing()
        where = {"epoch": self._progress.epoch, "position": self._progress.position}
        padding = {"padding_share": self._tokens.padding_share}
        return {**self._stats.summary(), **padding, **where, **now}

    def timeline(self) -> npt.NDArray[Any]:
        """The last 4,096 steps: `loaders.stats.TIMELINE`, in ns of `time.perf_counter_ns`."""
        return self._stats.timeline()


def _class_for(dataset: object) -> type[DataLoader]:
    if isinstance(dataset, TokenDataset):
        return TokenDataLoader
    if isinstance(dataset, Mixture):
        # It is made of TokenDataLoaders, so it can't be imported by their module's head.
        from loaders.mixture_loader import MixtureLoader

        return MixtureLoader
    return DataLoader


def _nothing() -> None:
    """The ranks are as they were said to be."""


def follower(loader: TokenDataLoader) -> Callable[[], None]:
    """Lets a loader's newest iterator follow, and doesn't keep the loader alive."""
    this = weakref.ref(loader)

    def follow() -> None:
        if (loader := this()) is not None:
            loader._follow()

    return follow
