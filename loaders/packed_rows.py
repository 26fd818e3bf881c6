"""Runs of packed rows as reads: a pack's tokens and where its documents begin, into padded rows.

A pack is one stretch of the stream, so its tokens are one ranged read (one for each shard). Which
of them lie in which row follows from the documents' offsets, read beside them. A run that needs
only some rows of a pack reads all of it, since their pieces are spread over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.attempts import Part
from loaders.blocks import Checksums, PartOfRun, Rows
from loaders.bring import bring
from loaders.layout import Layout, lay_out
from loaders.pack_plan import PackPlan
from loaders.schedule import Run
from loaders.source import Read, Source
from loaders.starts import Bytes, part_with_offsets
from shards.dataset import Stream
from shards.errors import DatasetError
from shards.offsets import OffsetsRead

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[np.generic]


def parts_of_rows(
    stream: Stream, checksums: Checksums, plan: PackPlan, run: Run, rows: Rows
) -> list[Part]:
    """The parts that fill `rows` with the packed rows of a run."""
    return [
        _part(stream, checksums, plan, number, first, rows[place])
        for number, first, place in _packs(plan, run)
    ]


def stretches_of_row(
    stream: Stream, checksums: Checksums, source: Source, plan: PackPlan, row: int
) -> list[tuple[int, int]]:
    """Tokens [start, stop) of the stream that lie in a row, in their order there. Reads offsets."""
    number, place = divmod(row, plan.rows)
    found: list[tuple[int, int]] = []

    def then(offsets: list[OffsetsRead], window: int) -> Part:
        return _Stretches(stream, plan, number, window, offsets, place, found)

    bring(source, [_part_with_window(stream, checksums, plan, number, then)])
    return found


def _packs(plan: PackPlan, run: Run) -> list[tuple[int, int, slice]]:
    """The packs of a run: number, the first row of it, and which rows of the run are its."""
    found, filled = [], 0
    while filled < run.count:
        number, first = divmod(run.first + filled, plan.rows)
        stop = min(run.count, filled + plan.rows - first)
        found.append((number, first, slice(filled, stop)))
        filled = stop
    return found


def _part(
    stream: Stream, checksums: Checksums, plan: PackPlan, number: int, first: int, rows: Rows
) -> Part:
    def then(offsets: list[OffsetsRead], window: int) -> Part:
        return _PartOfPack(stream, checksums, plan, number, window, offsets, first, rows)

    return _part_with_window(stream, checksums, plan, number, then)


def _part_with_window(
    stream: Stream,
    checksums: Checksums,
    plan: PackPlan,
    number: int,
    then: Callable[[list[OffsetsRead], int], Part],
) -> Part:
    """A part that is given how to read the offsets of a pack, and up to which token they tell."""
    start, window = int(plan.token[number]), int(plan.token[number + 1])
    if plan.packing == "best_fit":  # what the pack was chosen from
        window = min(start + plan.seq_len * plan.rows, stream.tokens)
    pieces = stream.pieces(start, min(window + 1, stream.tokens))
    return part_with_offsets(
        stream.dataset, checksums, pieces, lambda offsets: then(offsets, window)
    )


@dataclass(frozen=True, slots=True)
class _Stretches:
    """Finds out what lies in the row `place` of a pack."""

    stream: Stream
    plan: PackPlan
    number: int
    window: int
    offsets: Sequence[OffsetsRead]
    place: int
    found: list[tuple[int, int]]

    @property
    def reads(self) -> list[Read]:
        return [Read(one.piece.path, one.byte_start, one.byte_stop) for one in self.offsets]

    def land(self, data: Sequence[Bytes]) -> None:
        starts = _starts(self.offsets, data)
        layout = checked_layout(self.plan, self.number, starts, self.window, self.stream)
        mine = layout.row == self.place
        first = layout.start[mine] + int(self.plan.token[self.number])
        self.found[:] = zip(first.tolist(), (first + layout.length[mine]).tolist(), strict=True)


class _PartOfPack:
    """Fills `rows`, the pack's rows from `first` on (see `loaders.attempts.Part`)."""

    def __init__(
        self,
        stream: Stream,
        checksums: Checksums,
        plan: PackPlan,
        number: int,
        window: int,
        offsets: Sequence[OffsetsRead],
        first: int,
        rows: Rows,
    ) -> None:
        self._stream = stream
        self._plan = plan
        self._number = number
        self._window = window
        self._offsets = offsets
        self._first = first
        self._rows = rows
        start, stop = int(plan.token[number]), int(plan.token[number + 1])
        if rows.after is not None:
            stop = min(stop + 1, stream.tokens)
        self._landed: list[tuple[Array, Array | None]] = []
        self._tokens = [
            PartOfRun(piece, checksums, rows.mask is not None, self._collect)
            for piece in stream.pieces(start, stop)
        ]
        self.reads = [read for one in self._tokens for read in one.reads]
        self.reads += [Read(one.piece.path, one.byte_start, one.byte_stop) for one in offsets]

    def _collect(self, tokens: Array, mask: Array | None) -> None:
        self._landed.append((tokens, mask))

    def land(self, data: Sequence[Bytes]) -> None:
        """Verifies the bytes and puts the tokens into their rows. Raises CorruptShard."""
        self._landed, at = [], 0
        for one in self._tokens:
            one.land(data[at : at + len(one.reads)])
            at += len(one.reads)
        tokens = np.concatenate([tokens for tokens, _ in self._landed])
        masks = [mask for _, mask in self._landed if mask is not None]
        mask = np.concatenate(masks) if masks else None
        self._landed = []
        starts = _starts(self._offsets, data[at:])
        layout = checked_layout(self._plan, self._number, starts, self._window, self._stream)
        self._put(layout, starts, tokens, mask)

    def _put(self, layout: Layout, starts: Ints, tokens: Array, mask: Array | None) -> None:
        rows, first = self._rows, self._first
        rows.clear()
        mine = (layout.row >= first) & (layout.row < first + len(rows.tokens))
        start, length = layout.start[mine], layout.length[mine]
        row, column = layout.row[mine] - first, layout.column[mine]
        pieces = zip(row.tolist(), column.tolist(), start.tolist(), length.tolist(), strict=True)
        for to, left, at, size in pieces:
            rows.tokens[to, left : left + size] = tokens[at : at + size]
            if rows.mask is not None and mask is not None:
                rows.mask[to, left : left + size] = mask[at : at + size]
        assert rows.filled is not None
        np.maximum.at(rows.filled, row, (column + length).astype(np.int32))
        if rows.after is not None and rows.after_counts is not None:
            # A piece that its document goes on behind fills a row.
            end, begins = start + length, int(self._plan.token[self._number])
            goes_on = ~np.isin(end, starts) & (end + begins < self._stream.tokens)
            row, end = row[goes_on], end[goes_on]
            rows.after[row] = tokens[end]
            rows.after_counts[row] = 1 if mask is None else mask[end]
        if rows.begins is not None:
            # In the middle of a row the rest of a long document is as good as one of its own.
            begin = np.isin(start, starts) | (column > 0)
            rows.begins[layout.row[mine][begin] - first, column[begin]] = 1
            padded = np.flatnonzero(rows.filled < rows.tokens.shape[1])
            rows.begins[padded, rows.filled[padded]] = 1


def _starts(offsets: Sequence[OffsetsRead], data: Sequence[Bytes]) -> Ints:
    """Where documents begin, counted from the pack's first token."""
    found, filled = [], 0
    for one, some in zip(offsets, data, strict=True):
        found.append(one.starts(some) + filled)
        filled += one.piece.stop - one.piece.start
    return np.concatenate(found)


def checked_layout(
    plan: PackPlan, number: int, starts: Ints, window: int, stream: Stream
) -> Layout:
    """Of a pack whose documents begin at `starts`.

    Raises:
        DatasetError: the plan is not one of these documents.
    """
    at, end = int(plan.token[number]), int(plan.token[number + 1])
    size = window - at
    whole = window == stream.tokens or size in starts or plan.packing == "none"
    inside = starts[(starts > 0) & (starts < size)]
    layout = lay_out(plan.packing, inside, size, whole, plan.seq_len, plan.rows)
    rows = plan.last_rows if number == plan.packs - 1 else plan.rows
    if (layout.tokens, layout.rows) != (end - at, rows):
        raise DatasetError(
            f"{stream.dataset.uri}: the plan says that pack {number} has {end - at} tokens in "
            f"{rows} rows, by its documents it has {layout.tokens} in {layout.rows}. Delete the "
            "plan and run `python -m loaders pack` again"
        )
    return layout
