"""Which documents were in a batch: from a state and a number of steps, without reading tokens."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from loaders.dataset import TokenDataset
from loaders.resume import resumed
from loaders.sampler import OrderSampler, PartlyRead
from loaders.state import Progress, load
from shards.documents import Excerpt, excerpts, kept_columns

_THREADS = 16  # each row is two small reads
_VALUE = 80  # characters of a kept column's value


@dataclass(frozen=True)
class Batch:
    """A global batch: the rows from `position` on of an epoch of `rows` rows.

    `samples`: numbers of the dataset's samples; `PartlyRead` where a part counted before.
    """

    epoch: int
    position: int
    rows: int
    samples: list[int]


@dataclass(frozen=True)
class Found:
    """An excerpt in a row of a batch, with the columns kept beside its document."""

    row: int
    sample: int
    excerpt: Excerpt
    columns: dict[str, Any]


def dataset_of(uri: str, state: dict[str, Any], pack_dir: str | None = None) -> TokenDataset:
    """The dataset at `uri` with the split, source, seq_len and packing that a state names.

    Raises:
        ValueError: not a loader's state.
        shards.errors.DatasetError: no such dataset, split or source.
    """
    of, place = load(state)
    packing: Any = str(of["packing"]).partition("-")[0]
    return TokenDataset(
        uri,
        place.seq_len,
        split=str(of["split"]),
        source=of["source"],
        packing=packing,
        pack_dir=pack_dir,
    )


def batch_at(
    dataset: TokenDataset,
    state: dict[str, Any],
    step: int,
    *,
    global_batch: int | None = None,
    drop_last: bool = False,
) -> Batch:
    """The batch `step` steps behind the one that comes next after `state`; negative: before it.

    Args:
        global_batch: rows of a batch over all ranks; None: as when the state was saved.

    Raises:
        ValueError: a state of another dataset, or a batch of an earlier epoch than the state's.
    """
    of, place = load(state)
    size = place.global_batch if global_batch is None else global_batch
    if size < 1:
        raise ValueError(f"the global batch must have at least 1 row, not {size}")
    if not isinstance(of["shuffle"], bool) or not all(
        type(of[name]) is int for name in ("lanes", "seed")
    ):
        raise ValueError(
            "not a loader's state: shuffle must be true or false, lanes and seed whole numbers"
        )
    deal = dataset.deal(of["lanes"], of["seed"], of["shuffle"], of["max_seq_len"])
    deal, place = resumed(state, dataset, deal, adopt=False)
    progress = Progress()
    sampler = OrderSampler(
        dataset, deal, progress, batch_size=size, drop_last=drop_last, rank=0, world_size=1
    )
    sampler.restore(place)
    if step < 0:
        at = place.position + step * size
        if at < 0 or place.begun:
            raise ValueError(
                f"step {step} lies before what this state knows: epoch {place.epoch} stands at row "
                f"{place.position}. Take an earlier state and count forward from it"
            )
        progress.go_to(place.epoch, at)
    else:
        sampler.skip(step)
    if not sampler.current().steps:
        progress.go_to(progress.epoch + 1, 0)
    span = sampler.current()
    return Batch(progress.epoch, span.start, span.order.samples, [*islice(sampler, size)])


def found(dataset: TokenDataset, batch: Batch) -> Iterator[Found]:
    """The documents in a batch, row by row. Reads their offsets and kept columns."""
    with ThreadPoolExecutor(_THREADS) as threads:
        rows = threads.map(
            lambda sample: [
                one
                for stretch in dataset.stretches(int(sample))
                for one in excerpts(dataset.stream, *stretch)
            ],
            batch.samples,
        )
        parts = [*rows]
        shards = sorted({one.shard for row in parts for one in row})
        of_shard = dict(
            zip(
                shards,
                threads.map(lambda shard: kept_columns(dataset.stream.dataset, shard), shards),
                strict=True,
            )
        )
    for row, (sample, row_excerpts) in enumerate(zip(batch.samples, parts, strict=True)):
        for one in row_excerpts:
            columns = of_shard[one.shard]
            kept = {} if columns is None else columns.slice(one.document, 1).to_pylist()[0]
            yield Found(row, sample, one, kept)


def as_lines(dataset: TokenDataset, batch: Batch) -> Iterator[str]:
    """The batch for a person to read; a range ends before its second number, and has no commas
    in its numbers.
    """
    stop = batch.position + len(batch.samples)
    yield (
        f"{dataset.uri}: epoch {batch.epoch}, rows [{batch.position}, {stop}) of {batch.rows}, "
        f"{'at most ' if dataset.form.packed else ''}{dataset.seq_len:,} tokens each"
    )
    row = -1
    for one in found(dataset, batch):
        if one.row != row:
            row, before = one.row, ""
            if isinstance(one.sample, PartlyRead):
                before = f", its first {one.sample.read:,} tokens read before"
            yield f"row {row}: sample {one.sample:,}{before}"
        part = one.excerpt
        kept = "".join(f"  {name}={str(value)[:_VALUE]}" for name, value in one.columns.items())
        yield (
            f"    {part.path} document {part.document:,}, tokens [{part.start}, {part.stop}) of "
            f"{part.tokens}{kept}"
        )


def as_json(dataset: TokenDataset, batch: Batch) -> Iterator[str]:
    """The same, one JSON object for each excerpt."""
    for one in found(dataset, batch):
        line = {
            "epoch": batch.epoch,
            "position": batch.position + one.row,
            "row": one.row,
            "sample": int(one.sample),
            **asdict(one.excerpt),
            "columns": one.columns,
        }
        yield json.dumps(line, default=str)
