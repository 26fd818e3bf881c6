"""Rows in memory -> the batches of a chunk: gathered, widened to int64, handed out as views."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from loaders.blocks import IGNORED
from loaders.memory import Memory
from loaders.schedule import Chunk, Span
from loaders.slabs import Slabs

# Gathered rows are widened twice (input_ids, labels) while they are still in the CPU's cache.
_CACHED_BYTES = 1 << 19

Batch = dict[str, Any]  # tensors, and numbers that are about all of it


class Batches(Protocol):
    """Makes the batches of one iteration's chunks: `Gather`, or `collate.Collate`."""

    def batches(self, chunk: Chunk, memory: Memory) -> tuple[list[Batch], list[int]]:
        """The chunk's batches in order, and their numbers of tokens, padding rows included."""
        ...


class Gather:
    """Makes the batches of one iteration's chunks; of one thread.

    Args:
        most_rows: of a chunk.
    """

    def __init__(self, span: Span, slabs: Slabs, most_rows: int) -> None:
        self._span = span
        self._slabs = slabs
        self._most_rows = most_rows
        self._narrow = np.empty((0, 0), np.uint32)

    def batches(self, chunk: Chunk, memory: Memory) -> tuple[list[Batch], list[int]]:
        ids, labels = self._gather(chunk, memory)
        size, seq_len = self._span.batch_size, ids.shape[1]
        pairs = zip(_split(ids, size), _split(labels, size), strict=True)
        batches = [
            {"input_ids": some_ids, "labels": some_labels} for some_ids, some_labels in pairs
        ]
        tokens = [size * seq_len] * len(batches)
        tokens[-1] = ids.numel() - (len(batches) - 1) * size * seq_len
        return batches, tokens

    def _gather(self, chunk: Chunk, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
        rows, addresses = memory.rows, memory.addresses(chunk)
        shape = (chunk.run.size + chunk.padding, rows.tokens.shape[1])
        room = self._most_rows * shape[1]
        ids, ids_array = self._slabs.take(shape, room)
        labels, labels_array = self._slabs.take(shape, room)
        narrow = self._narrow_like(rows.tokens)
        size = len(narrow)
        for start in range(0, chunk.run.size, size):
            part = slice(start, min(start + size, chunk.run.size))
            some = narrow[: part.stop - part.start]
            # mode="clip": the others make take() work in a buffer of its own first.
            np.take(rows.tokens, addresses[part], axis=0, out=some, mode="clip")
            np.copyto(ids_array[part], some)
            np.copyto(labels_array[part], some)
            if rows.mask is not None:
                masked = rows.mask.take(addresses[part], axis=0) == 0
                np.copyto(labels_array[part], IGNORED, where=masked)
        ids_array[chunk.run.size :] = 0
        labels_array[chunk.run.size :] = IGNORED
        first = chunk.step * self._span.batch_size
        read = self._span.read_before[first : first + chunk.run.size]
        for row in np.flatnonzero(read):
            labels_array[row, : read[row]] = IGNORED
        return ids, labels

    def _narrow_like(self, tokens: np.ndarray) -> np.ndarray:
        """Room for some rows, in the CPU's cache."""
        if self._narrow.dtype != tokens.dtype or self._narrow.shape[1] != tokens.shape[1]:
            some = max(1, _CACHED_BYTES // tokens[0].nbytes)
            self._narrow = np.empty((some, tokens.shape[1]), tokens.dtype)
        return self._narrow


def _split(rows: torch.Tensor, size: int) -> Sequence[torch.Tensor]:
    """`size` rows each, the last perhaps fewer; unbind costs a third of split."""
    steps, rest = divmod(len(rows), size)
    whole = rows[: steps * size].view(steps, size, rows.shape[1]).unbind(0)
    return (*whole, rows[steps * size :]) if rest else whole
