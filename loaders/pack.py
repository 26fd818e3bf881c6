"""`python -m loaders pack`: which documents go together, from their lengths alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from loaders.attempts import Part
from loaders.blocks import Checksums
from loaders.bring import bring
from loaders.form import Packing
from loaders.opening import open_dataset
from loaders.order import DEFAULT_LANES, Order
from loaders.pack_file import PackKey, write_packs
from loaders.pack_plan import Ints, PackPlan, plan_packs
from loaders.source import Read, Source, open_source
from loaders.starts import Bytes, part_with_offsets
from loaders.whole import whole
from shards.dataset import Stream
from shards.errors import DatasetError
from shards.offsets import OffsetsRead
from shards.store import open_store

_TOGETHER = 64  # shards whose offsets are read side by side
# Fewer rows leave more padding: up to 3.7 % of real text's for 16. Fewer bytes read more besides:
# reads are rounded outward to cells of 64 KiB.
_FEWEST_ROWS, _FEWEST_BYTES = 16, 256 << 10


@dataclass(frozen=True)
class Packed:
    """A plan that was written, and what it is a plan of."""

    uri: str
    where: str
    key: PackKey
    plan: PackPlan
    documents: int

    def lines(self, pack_dir: str | None) -> Iterator[str]:
        """What came out, and what to do next."""
        plan = self.plan
        yield (
            f"{self.where}: {self.documents:,} documents of {int(plan.token[-1]):,} tokens in "
            f"{plan.all_rows:,} rows of {plan.seq_len:,}, {plan.padding:.2%} padding"
        )
        more = "" if self.key.split == "train" else f", split={self.key.split!r}"
        more += "" if self.key.source is None else f", source={self.key.source!r}"
        more += "" if pack_dir is None else f", pack_dir={pack_dir!r}"
        yield (
            f"  next: TokenDataset({self.uri!r}, seq_len={plan.seq_len}{more}, "
            f'packing="{plan.packing}")'
        )


def make_packs(
    uri: str,
    seq_len: int,
    *,
    split: str = "train",
    source: str | None = None,
    packing: Packing = "best_fit",
    pack_dir: str | None = None,
    rows: int | None = None,
    show_progress: bool = False,
) -> Packed:
    """Reads where documents begin, plans their packs and writes the plan.

    Args:
        pack_dir: the folder or uri it is written into; None: beside the data, in packs/.
        rows: of a pack; None: as many as the order reads at once with the default lanes.

    Raises:
        shards.errors.StokerError: no such dataset, or it can't be read or written.
        ValueError: seq_len or rows below 1, or the split has fewer than seq_len tokens.
    """
    seq_len = whole("--seq-len", seq_len, 1)
    if rows is not None:
        whole("--rows", rows, 1)
    reading = open_source(open_store(uri).uri)
    stream = open_dataset(uri, reading).stream(split, source)
    if packing == "best_fit" and stream.tokens < seq_len:
        raise ValueError(
            f"{stream.dataset.uri}: --seq-len {seq_len}, but split {split!r} has only "
            f"{stream.tokens} tokens: choose at most that"
        )
    key = PackKey(stream.dataset.id, split, source, packing, seq_len)
    with tqdm(
        total=stream.tokens, unit="tok", unit_scale=True, desc="pack", disable=not show_progress
    ) as bar:
        lengths = _lengths(stream, reading, bar)
        plan = plan_packs(lengths, seq_len, rows or rows_of_a_pack(stream, seq_len), packing)
    where = write_packs(stream, key, plan, pack_dir)
    return Packed(stream.dataset.uri, where, key, plan, stream.documents)


def rows_of_a_pack(stream: Stream, seq_len: int) -> int:
    """A block of the order, so that each pack is read once."""
    mask = 1 if stream.dataset.manifest.loss_mask else 0
    row_bytes = seq_len * (stream.dtype.itemsize + mask)
    order = Order(max(1, stream.tokens // seq_len), row_bytes, DEFAULT_LANES)
    fewest = max(_FEWEST_ROWS, 1 << (_FEWEST_BYTES // row_bytes).bit_length() >> 1)
    return max(fewest, order.block)  # all of them powers of two: smaller blocks lie in one pack


def _lengths(stream: Stream, source: Source, bar: tqdm[Any]) -> Iterator[Ints]:
    """The lengths of each shard's documents, in stream order."""
    checksums = Checksums(stream.dataset.cells)
    for first in range(0, len(stream.shards), _TOGETHER):
        places = range(first, min(first + _TOGETHER, len(stream.shards)))
        shards = [_Shard(stream, place) for place in places]
        pieces = [[one.piece] for one in shards]
        reads = zip(pieces, shards, strict=True)
        bring(source, [part_with_offsets(stream.dataset, checksums, *one) for one in reads])
        for one in shards:
            bar.update(int(one.lengths.sum()))
            yield one.lengths


class _Shard:
    """The lengths of a shard's documents, once its offsets have landed."""

    def __init__(self, stream: Stream, place: int) -> None:
        start, stop = stream.starts[place : place + 2].tolist()
        (self.piece,) = stream.pieces(start, stop)
        self.lengths: Ints
        self._offsets: OffsetsRead

    def __call__(self, offsets: Sequence[OffsetsRead]) -> Part:
        (self._offsets,) = offsets
        return self

    @property
    def reads(self) -> list[Read]:
        return [Read(self.piece.path, self._offsets.byte_start, self._offsets.byte_stop)]

    def land(self, data: Sequence[Bytes]) -> None:
        offsets = self._offsets.offsets(data[0])
        self.lengths = np.diff(offsets)
        if offsets[0] != 0 or offsets[-1] != self.piece.stop or (self.lengths < 0).any():
            raise DatasetError(
                f"{self.piece.uri}/{self.piece.path}: its documents don't make up its tokens"
            )
