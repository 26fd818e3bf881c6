"""A token dataset as torch knows datasets: a list of samples."""

import operator
import os
from collections.abc import Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from torch.utils.data import Dataset

from loaders.attempts import Part
from loaders.blocks import IGNORED, Checksums, Rows, parts_of_run
from loaders.bring import bring
from loaders.collate import fill
from loaders.form import Form, Labels
from loaders.order import Order
from loaders.parts import Deal
from loaders.sampler import PaddingIndex, PartlyRead
from loaders.schedule import Run
from loaders.source import Source, open_source
from shards.dataset import open_dataset

Sample = dict[str, torch.Tensor]


class TokenDataset(Dataset[Sample]):
    """Samples of `seq_len` consecutive tokens of a split: sample i is tokens [i * seq_len, ...).

    A map-style dataset: length, items, slices, `__getitems__`; it pickles, and reopens its files
    and clients in a forked or spawned process. So torch's own DataLoader and samplers can use it;
    `loaders.DataLoader` is much faster. Up to seq_len - 1 tokens at the very end belong to no
    sample.

    Args:
        uri: of the dataset: `s3://bucket/prefix`, `file:///folder` or a path.
        seq_len: tokens in a sample, at least 1.
        split: `"train"`, or another one that the dataset has.
        source: only the documents of this source; None: all.
        labels: `"same"`: labels[:, t] is input_ids[:, t], for models that shift them, as HF's do;
            `"next"`: it is the token behind it, for those that don't.

    Raises:
        shards.errors.DatasetError: no dataset there, or none with this split and source.
        ValueError: the split has fewer than seq_len tokens, or an option means nothing.
    """

    def __init__(
        self,
        uri: str,
        seq_len: int,
        *,
        split: str = "train",
        source: str | None = None,
        labels: Labels = "same",
    ) -> None:
        if seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, not {seq_len}")
        self.form = Form(labels)
        self.stream = open_dataset(os.fspath(uri)).stream(split, source)
        self.uri = self.stream.dataset.uri
        self.seq_len = seq_len
        self.split = split
        self.source_name = source
        if self.stream.tokens < seq_len:
            raise ValueError(
                f"{self.uri}: seq_len={seq_len}, but split {split!r} has only "
                f"{self.stream.tokens} tokens: choose a seq_len of at most that"
            )
        self.samples = self.stream.tokens // seq_len
        self._process: tuple[int, Source, Checksums] | None = None

    def __repr__(self) -> str:
        source = "" if self.source_name is None else f", source={self.source_name!r}"
        return (
            f"TokenDataset({self.uri!r}, seq_len={self.seq_len}, split={self.split!r}{source}): "
            f"{self.samples:,} samples of {self.stream.tokens:,} tokens"
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample as it is stored: token ids in the shard's dtype, and the loss mask."""
        mask = 1 if self.stream.dataset.manifest.loss_mask else 0
        return self.seq_len * (self.stream.dtype.itemsize + mask)

    @property
    def row_bytes(self) -> int:
        """Memory of a sample as it is held: that, and what `form` needs besides."""
        after = self.stream.dtype.itemsize + 1 if self.form.labels == "next" else 0
        return self.sample_bytes + after

    def deal(self, lanes: int, seed: int, shuffle: bool, max_seq_len: int) -> Deal:
        """The order of its samples, dealt in stretches of `max_seq_len` tokens.

        Raises:
            ValueError: `seq_len` doesn't divide `max_seq_len`, or there are fewer tokens than that.
        """
        parts, rest = divmod(max_seq_len, self.seq_len)
        if rest or parts < 1:
            raise ValueError(
                f"max_seq_len={max_seq_len} must be a multiple of the dataset's seq_len "
                f"{self.seq_len}"
            )
        samples = self.stream.tokens // max_seq_len
        if not samples:
            raise ValueError(
                f"{self.uri}: max_seq_len={max_seq_len}, but split {self.split!r} has only "
                f"{self.stream.tokens} tokens: choose one of at most that"
            )
        order = Order(samples, self.sample_bytes * parts, lanes, seed, shuffle)
        return Deal(order, self.seq_len, max_seq_len)

    @property
    def source(self) -> Source:
        """Where this process reads from."""
        return self._of_this_process()[1]

    def rows(self, samples: int) -> Rows:
        """Memory for this many samples."""
        return Rows.empty(self.stream, samples, self.seq_len, self.form)

    def parts(self, run: Run, rows: Rows) -> Sequence[Part]:
        """The reads that fill `rows` with the samples of `run`."""
        checksums = self._of_this_process()[2]
        return parts_of_run(self.stream, checksums, self.seq_len, run, rows)

    def _of_this_process(self) -> tuple[int, Source, Checksums]:
        process = self._process
        if process is None or process[0] != os.getpid():
            checksums = Checksums(self.stream.dataset.cells)
            process = self._process = (os.getpid(), open_source(self.uri), checksums)
        return process

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        """A sample: `input_ids` and `labels`, int64 [seq_len]; a list of them for a slice.

        `labels` is -100 where the dataset's loss mask is 0, and with `"next"` at the stream's end.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(self.samples)))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Sample]:
        """Several samples, read side by side: what torch's DataLoader calls for a batch."""
        numbers = [self._number(index) for index in indices]
        rows = self.rows(len(numbers))
        parts = [
            part
            for place, number in enumerate(numbers)
            if number >= 0
            for part in self.parts(Run(place, number, 1), rows[place : place + 1])
        ]
        bring(self.source, parts)
        ids = np.empty((len(numbers), self.seq_len), np.int64)
        labels = np.empty_like(ids)
        fill(self.form, rows, np.arange(len(numbers)), ids, labels)
        padding = np.array(numbers, np.int64) < 0
        ids[padding], labels[padding] = 0, IGNORED
        for row, index in zip(labels, indices, strict=True):
            if isinstance(index, PartlyRead):
                row[: index.read] = IGNORED
        return [
            {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row_labels)}
            for row, row_labels in zip(ids, labels, strict=True)
        ]

    def _number(self, index: SupportsIndex) -> int:
        """The sample's number; -1 for a padding row."""
        if isinstance(index, PaddingIndex):
            return -1
        number = operator.index(index)
        if not -self.samples <= number < self.samples:
            raise IndexError(f"sample {number} of {self.samples}")
        return number % self.samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}
