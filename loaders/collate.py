"""Rows in memory -> batches with other keys or labels than the tokens alone.

What a batch has is decided by the dataset's `Form`; for the plain one `gather.Gather` is faster.
"""

from collections.abc import Iterator, Mapping, Sequence

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
        rows = len(addresses) + chunk.padding
        found: list[Batch] = []
        for first, tensors, arrays in self._memory(rows, addresses, memory.rows):
            fill(self._form, memory.rows, addresses[first : first + size], arrays)
            self._take_back(chunk.step * size + first, arrays["labels"])
            found.append(finish(self._form, tensors))
        return found, [batch["input_ids"].numel() for batch in found]

    def _memory(
        self, rows: int, addresses: Ints, held: Rows
    ) -> Iterator[tuple[int, Batch, dict[str, Ints]]]:
        """For each batch its first row, and memory for its keys: as tensors and as arrays."""
        form, size, length = self._form, self._span.batch_size, held.tokens.shape[1]
        if form.packing == "none":
            assert held.filled is not None
            for first in range(0, rows, size):
                longest = held.filled[addresses[first : first + size]].max(initial=0)
                shape = (min(size, rows - first), form.width(int(longest), length))
                taken = {name: self._slabs.take(shape, size * length) for name in form.keys}
                tensors = {name: tensor for name, (tensor, _) in taken.items()}
                yield first, tensors, {name: array for name, (_, array) in taken.items()}
            return
        room = self._most_rows * length
        taken = {name: self._slabs.take((rows, length), room) for name in form.keys}
        for first in range(0, rows, size):
            part = slice(first, first + size)
            tensors = {name: tensor[part] for name, (tensor, _) in taken.items()}
            yield first, tensors, {name: array[part] for name, (_, array) in taken.items()}

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
    np.copyto(ids[:real], _take(rows.tokens, addresses, ids.shape[1]))
    _label(form, rows, addresses, ids[:real], labels[:real])
    if rows.filled is not None:
        padding = np.arange(ids.shape[1]) >= rows.filled[addresses][:, None]
        _no_label(form, labels[:real], padding)
        if (mask := made.get("attention_mask")) is not None:
            mask[:real], mask[real:] = ~padding, 0
    if form.document_mask:
        assert rows.begins is not None
        begins = np.zeros(ids.shape, bool)
        begins[:real] = _take(rows.begins, addresses, ids.shape[1])
        begins[:, 0] = True
        column = np.arange(ids.shape[1])
        first = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
        np.subtract(column, first, out=made["position_ids"])


def _take(memory: npt.NDArray[np.generic], addresses: Ints, width: int) -> npt.NDArray[np.generic]:
    """The first `width` columns of some rows. (All of a row is the faster copy.)"""
    if memory.shape[1] == width:
        return memory[addresses]
    return memory[addresses, :width]


def _label(form: Form, rows: Rows, addresses: Ints, ids: Ints, labels: Ints) -> None:
    """The labels of tokens, without a look at what is padding."""
    width, ahead = ids.shape[1], int(form.labels == "next")
    if not ahead:
        np.copyto(labels, ids)
    else:
        assert rows.after is not None
        assert rows.after_counts is not None
        np.copyto(labels[:, :-1], ids[:, 1:])
        labels[:, -1] = IGNORED
        if width == rows.tokens.shape[1]:
            counts = rows.after_counts[addresses] == 1
            labels[counts, -1] = rows.after[addresses[counts]]
    if rows.mask is not None:
        masked = _take(rows.mask, addresses, width)[:, ahead:] == 0
        np.copyto(labels[:, : width - ahead], IGNORED, where=masked)
    if rows.begins is not None:
        begins = _take(rows.begins, addresses, width + ahead)[:, ahead:] == 1
        np.copyto(labels, IGNORED, where=begins)


def _no_label(form: Form, labels: Ints, padding: npt.NDArray[np.bool_]) -> None:
    """For padding. The last column's label, if it is the token behind the row, is right already."""
    if form.labels == "same":
        np.copyto(labels, IGNORED, where=padding)
    else:
        np.copyto(labels[:, :-1], IGNORED, where=padding[:, 1:])


def finish(form: Form, batch: Batch) -> Batch:
    """Adds to a batch what is not one row for each sample."""
    if form.document_mask:
        batch |= document_lengths(batch["position_ids"])
    return batch


def collated(form: Form, samples: Sequence[Mapping[str, torch.Tensor]], seq_len: int) -> Batch:
    """A batch of samples that were taken one by one."""
    width = form.width(max(len(sample["input_ids"]) for sample in samples), seq_len)
    rows = {name: [_padded(name, one[name], width) for one in samples] for name in form.keys}
    return finish(form, {name: torch.stack(some) for name, some in rows.items()})


def _padded(name: str, row: torch.Tensor, width: int) -> torch.Tensor:
    more = width - len(row)
    if not more:
        return row
    if name == "position_ids":
        return torch.cat([row, torch.arange(more)])
    return torch.nn.functional.pad(row, (0, more), value=IGNORED if name == "labels" else 0)


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
