"""Rows in memory -> batches with other keys or labels than the tokens alone.

What a batch has is decided by the dataset's `Form`; for the plain one `gather.Gather` is faster.
"""

import numpy as np
import numpy.typing as npt

from loaders.blocks import IGNORED, Rows
from loaders.form import Form
from loaders.gather import Batch, Batches, Gather
from loaders.memory import Memory
from loaders.schedule import Chunk, Span
from loaders.slabs import Slabs

Ints = npt.NDArray[np.int64]


def gather_of(form: Form, span: Span, slabs: Slabs, most_rows: int) -> Batches:
    """What makes the batches of this form. `most_rows`: of a chunk."""
    if form.plain:
        return Gather(span, slabs, most_rows)
    return Collate(form, span, slabs, most_rows)


class Collate:
    """Makes the batches of one iteration's chunks, one after the other; of one thread."""

    def __init__(self, form: Form, span: Span, slabs: Slabs, most_rows: int) -> None:
        self._form = form
        self._span = span
        self._slabs = slabs
        self._most_rows = most_rows

    def batches(self, chunk: Chunk, memory: Memory) -> list[tuple[Batch, int]]:
        """The chunk's batches in order, each with its number of tokens, padding rows included."""
        size, addresses = self._span.batch_size, memory.addresses(chunk)
        rows, length = len(addresses) + chunk.padding, memory.rows.tokens.shape[1]
        room = self._most_rows * length
        ids, ids_array = self._slabs.take((rows, length), room)
        labels, labels_array = self._slabs.take((rows, length), room)
        found: list[tuple[Batch, int]] = []
        for first in range(0, rows, size):
            part = slice(first, min(first + size, rows))
            real = addresses[part]
            fill(self._form, memory.rows, real, ids_array[part], labels_array[part])
            self._take_back(chunk.step * size + first, labels_array[part])
            batch = {"input_ids": ids[part], "labels": labels[part]}
            found.append((batch, ids[part].numel()))
        return found

    def _take_back(self, first: int, labels: Ints) -> None:
        """No label a second time: for what was read before `seq_len` changed. `first`: the row of
        this rank that the labels begin with.
        """
        read = self._span.read_before[first : first + len(labels)]
        for row in np.flatnonzero(read):
            labels[row, : read[row]] = IGNORED


def fill(form: Form, rows: Rows, addresses: Ints, ids: Ints, labels: Ints) -> None:
    """Writes input_ids and labels, int64 [batch, seq_len], of the rows at these addresses.

    What the batch has more is padding: `input_ids` 0, `labels` -100.
    """
    real = len(addresses)
    ids[real:], labels[real:] = 0, IGNORED
    np.copyto(ids[:real], rows.tokens[addresses])
    mask = None if rows.mask is None else rows.mask[addresses]
    if form.labels == "same":
        np.copyto(labels[:real], ids[:real])
        if mask is not None:
            np.copyto(labels[:real], IGNORED, where=mask == 0)
        return
    assert rows.after is not None
    assert rows.after_counts is not None
    np.copyto(labels[:real, :-1], ids[:real, 1:])
    labels[:real, -1] = rows.after[addresses]
    labels[:real, -1][rows.after_counts[addresses] == 0] = IGNORED
    if mask is not None:
        np.copyto(labels[:real, :-1], IGNORED, where=mask[:, 1:] == 0)
