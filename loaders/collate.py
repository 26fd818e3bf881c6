"""Rows in memory -> batches with other keys or labels than the tokens alone.

What a batch has is decided by the dataset's `Form`; for the plain one `gather.Gather` is faster.
"""

import numpy as np
import numpy.typing as npt
import torch

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

    def batches(self, chunk: Chunk, memory: Memory) -> tuple[list[Batch], list[int]]:
        size, addresses = self._span.batch_size, memory.addresses(chunk)
        rows, length = len(addresses) + chunk.padding, memory.rows.tokens.shape[1]
        room = self._most_rows * length
        taken = {name: self._slabs.take((rows, length), room) for name in self._form.keys}
        found: list[Batch] = []
        for first in range(0, rows, size):
            part = slice(first, first + size)
            arrays = {name: array[part] for name, (_, array) in taken.items()}
            fill(self._form, memory.rows, addresses[part], arrays)
            self._take_back(chunk.step * size + first, arrays["labels"])
            batch: Batch = {name: tensor[part] for name, (tensor, _) in taken.items()}
            found.append(finish(self._form, batch))
        return found, [batch["input_ids"].numel() for batch in found]

    def _take_back(self, first: int, labels: Ints) -> None:
        """No label a second time: for what was read before `seq_len` changed. `first`: the row of
        this rank that the labels begin with.
        """
        read = self._span.read_before[first : first + len(labels)]
        for row in np.flatnonzero(read):
            labels[row, : read[row]] = IGNORED


def fill(form: Form, rows: Rows, addresses: Ints, made: dict[str, Ints]) -> None:
    """Writes the keys of a form, int64 [batch, seq_len] each, from the rows at these addresses.

    What the batch has more is padding: `input_ids` 0, `labels` -100, one document a row.
    """
    real = len(addresses)
    ids, labels = made["input_ids"], made["labels"]
    ids[real:], labels[real:] = 0, IGNORED
    np.copyto(ids[:real], rows.tokens[addresses])
    _label(form, rows, addresses, ids[:real], labels[:real])
    if form.document_mask:
        assert rows.begins is not None
        begins = np.zeros(ids.shape, bool)
        begins[:real] = rows.begins[addresses, :-1]
        begins[:, 0] = True
        column = np.arange(ids.shape[1])
        first = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
        np.subtract(column, first, out=made["position_ids"])


def _label(form: Form, rows: Rows, addresses: Ints, ids: Ints, labels: Ints) -> None:
    mask = None if rows.mask is None else rows.mask[addresses]
    begins = None if rows.begins is None else rows.begins[addresses]
    if form.labels == "same":
        np.copyto(labels, ids)
        if begins is not None:
            begins = begins[:, :-1]
    else:
        assert rows.after is not None
        assert rows.after_counts is not None
        np.copyto(labels[:, :-1], ids[:, 1:])
        labels[:, -1] = rows.after[addresses]
        labels[:, -1][rows.after_counts[addresses] == 0] = IGNORED
        if begins is not None:
            begins = begins[:, 1:]
        if mask is not None:
            ones = np.ones((len(mask), 1), np.uint8)
            mask = np.concatenate([mask[:, 1:], ones], axis=1)
    if mask is not None:
        np.copyto(labels, IGNORED, where=mask == 0)
    if begins is not None:
        np.copyto(labels, IGNORED, where=begins == 1)


def finish(form: Form, batch: Batch) -> Batch:
    """Adds to a batch what is not one row for each sample."""
    if form.document_mask:
        batch |= document_lengths(batch["position_ids"])
    return batch


def document_lengths(position_ids: torch.Tensor) -> Batch:
    """What kernels for sequences of different lengths take; of the rows one after the other.

    Args:
        position_ids: int64 [batch, seq_len], 0 where a document or a row begins.

    Returns:
        `cu_seqlens`: int32 [documents + 1], where each begins in the flattened batch, then its end;
        `max_seqlen`: tokens of the longest. The same under the names of transformers' flash
        attention: `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k`.
    """
    starts = np.flatnonzero(position_ids.numpy() == 0)
    ends = np.append(starts, position_ids.numel()).astype(np.int32)
    cumulated, longest = torch.from_numpy(ends), int(np.diff(ends).max(initial=0))
    if position_ids.is_pinned():
        cumulated = cumulated.pin_memory()
    return {
        "cu_seqlens": cumulated,
        "max_seqlen": longest,
        "cu_seq_lens_q": cumulated,
        "cu_seq_lens_k": cumulated,
        "max_length_q": longest,
        "max_length_k": longest,
    }
