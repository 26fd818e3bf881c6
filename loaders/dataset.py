"""A token dataset as torch knows datasets: a list of samples."""

import operator
import os
from collections.abc import Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from torch.utils.data import Dataset

from loaders.attempts import Part
from loaders.blocks import IGNORED, Checksums, Rows, parts_of_run, tokens_of_run
from loaders.bring import bring
from loaders.collate import collated, fill
from loaders.form import Form, Labels, Packing
from loaders.opening import hold_checksums, open_dataset
from loaders.order import BLOCK_BYTES, Order
from loaders.pack_file import PackKey, Packs, read_packs
from loaders.packed_rows import parts_of_rows, stretches_of_row
from loaders.parts import Deal
from loaders.sampler import PaddingIndex, PartlyRead
from loaders.schedule import Run
from loaders.source import Source, open_source
from loaders.starts import starts_of_run
from loaders.whole import whole
from shards.format import CELL_BYTES
from shards.store import open_store

Sample = dict[str, torch.Tensor]


class TokenDataset(Dataset[Sample]):
    """Samples of `seq_len` consecutive tokens of a split: sample i is tokens [i * seq_len, ...).

    A map-style dataset: length, items, slices, `__getitems__`; it pickles, and reopens its files
    and clients in a forked or spawned process. So torch's own DataLoader and samplers can use it;
    `loaders.DataLoader` is much faster. A slice is a list of samples, each a dict, not a batch
    (`collate` makes one of them). Up to seq_len - 1 tokens at the very end belong to no sample.

    Args:
        uri: of the dataset: `s3://bucket/prefix`, `file:///folder` or a path.
        seq_len: tokens in a sample, at least 1.
        split: `"train"`, or another one that the dataset has.
        source: only the documents of this source; None: all.
        labels: `"same"`: labels[:, t] is input_ids[:, t], for models that shift them, as HF's do;
            `"next"`: it is the token behind it, for those that don't.
        document_mask: batches say where documents begin, for attention inside each of them:
            `position_ids`, int64 as `input_ids`, and what `loaders.collate.document_lengths` makes
            of them. No label is predicted over the end of a document.
        packing: `"concat"`: as above. `"best_fit"`: a sample is a row of documents that fit
            together, none of them cut that fits in one, padded with `input_ids` 0, `labels` -100
            and, but with `document_mask`, an `attention_mask` int64 of 1 and 0. It needs a plan:
            `python -m loaders pack`. `"none"`: likewise, but a sample is one document, or a piece
            of seq_len tokens of a longer one; a batch is as long as its longest.
        pack_dir: the folder or uri that the plan lies in; None: beside the data, in packs/.
        pad_to_multiple_of: with `"none"`: batches are as long as the next multiple, which has to
            divide seq_len.

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
        document_mask: bool = False,
        packing: Packing = "concat",
        pack_dir: str | os.PathLike[str] | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        seq_len = whole("seq_len", seq_len, 1)
        self.form = Form(labels, document_mask, packing, pad_to_multiple_of)
        if pack_dir is not None and not self.form.packed:
            raise ValueError(
                f"pack_dir= is for rows that need a plan, not for packing={packing!r}: leave it out"
            )
        if seq_len % (pad_to_multiple_of or 1):
            raise ValueError(
                f"seq_len={seq_len}, where the longest rows end, is no multiple of "
                f"pad_to_multiple_of={pad_to_multiple_of}: choose one that is"
            )
        self.uri = open_store(os.fspath(uri)).uri
        opened = open_source(self.uri)
        self.stream = open_dataset(self.uri, opened).stream(split, source)
        self.seq_len = seq_len
        self.split = split
        self.source_name = source
        self._packs: Packs | None = None
        if self.form.packed:
            key = PackKey(self.stream.dataset.id, split, source, packing, seq_len)
            where = None if pack_dir is None else os.fspath(pack_dir)
            self._packs = read_packs(self.stream, key, where)
            self.samples = self._packs.plan.all_rows
        elif self.stream.tokens < seq_len:
            raise ValueError(
                f"{self.uri}: seq_len={seq_len}, but split {split!r} has only "
                f"{self.stream.tokens} tokens: choose a seq_len of at most that"
            )
        else:
            self.samples = self.stream.tokens // seq_len
        self._process: tuple[int, Source, Checksums] | None = None
        self._use(opened)

    def __repr__(self) -> str:
        """One line, from what is known: nothing is read."""
        chosen = {"seq_len": self.seq_len, "split": self.split, **self.form.chosen}
        if self.source_name is not None:
            chosen["source"] = self.source_name
        options = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        padding = "" if self._packs is None else f", {self.padding_share:.2%} padding"
        return (
            f"TokenDataset({self.uri!r}, {options}): {self.samples:,} samples, "
            f"{self.stream.tokens:,} tokens{padding}"
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
        begins = self.seq_len + 1 if self.form.document_mask else 0
        return self.sample_bytes + after + begins + (4 if self.form.packed else 0)

    def read_bytes(self, samples: int) -> int:
        """Bytes of the largest read for this many samples in a row: whole cells of one shard."""
        width = self.stream.dtype.itemsize
        cells = -(-samples * self.seq_len * width // CELL_BYTES) + 1
        return min(cells * CELL_BYTES, int(np.diff(self.stream.starts).max()) * width)

    @property
    def packing(self) -> str:
        """How documents make rows, for the state: with what names the plan, if there is one."""
        return self.form.packing if self._packs is None else f"{self.form.packing}-{self._packs.id}"

    @property
    def padding_share(self) -> float:
        """Of the places in all rows, those without a token; 0 where rows are cut from the stream.

        With `"none"` of rows as long as seq_len: batches that are shorter have less.
        """
        return 0.0 if self._packs is None else self._packs.plan.padding

    @property
    def run_samples(self) -> int:
        """Samples that are read together where the whole split is held."""
        some = max(1, BLOCK_BYTES // self.sample_bytes)
        rows = 1 if self._packs is None else self._packs.plan.rows
        return max(1, some // rows) * rows

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
        if self._packs is not None and parts > 1:
            raise ValueError(
                f"max_seq_len={max_seq_len}: rows of packing={self.form.packing!r} are packed for "
                f"seq_len={self.seq_len} and can't be parted: leave it out"
            )
        samples = self.samples if parts == 1 else self.stream.tokens // max_seq_len
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
        if self._packs is not None:
            return parts_of_rows(self.stream, checksums, self._packs.plan, run, rows)
        parts: list[Part] = [*parts_of_run(self.stream, checksums, self.seq_len, run, rows)]
        if self.form.document_mask:
            start, stop = tokens_of_run(self.stream, self.seq_len, run, rows)
            parts += starts_of_run(self.stream, checksums, start, stop, rows)
        return parts

    def stretches(self, sample: int) -> list[tuple[int, int]]:
        """Tokens [start, stop) of the stream that a sample is made of, in their order there."""
        if self._packs is None:
            return [(sample * self.seq_len, (sample + 1) * self.seq_len)]
        _, source, checksums = self._of_this_process()
        return stretches_of_row(self.stream, checksums, source, self._packs.plan, sample)

    def _of_this_process(self) -> tuple[int, Source, Checksums]:
        process = self._process
        if process is None or process[0] != os.getpid():
            return self._use(open_source(self.uri))
        return process

    def _use(self, source: Source) -> tuple[int, Source, Checksums]:
        cells = self.stream.dataset.cells
        hold_checksums(cells, source)
        self._process = (os.getpid(), source, Checksums(cells))
        return self._process

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        """A sample: `input_ids`, `labels`, with `document_mask` also `position_ids`, packed without
        it `attention_mask`, int64 [seq_len] each (`"none"`: as long as it is); a list of them for
        a slice.

        `labels` is -100 where the dataset's loss mask is 0, and with `"next"` at the stream's end.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(self.samples)))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Sample]:
        """Several samples, read side by side: what torch's DataLoader calls for a batch."""
        numbers = [self._number(index) for index in indices]
        rows = self.rows(len(numbers))
        parts: list[Part] = []
        for place, number in enumerate(numbers):
            row = rows[place : place + 1]
            if number < 0:
                row.clear()
            else:
                parts += self.parts(Run(place, number, 1), row)
        bring(self.source, parts)
        made = {name: np.empty((len(numbers), self.seq_len), np.int64) for name in self.form.keys}
        fill(self.form, rows, np.arange(len(numbers)), made)
        padding = np.array(numbers, np.int64) < 0
        labels = made["labels"]
        labels[padding] = IGNORED
        for row_labels, index in zip(labels, indices, strict=True):
            if isinstance(index, PartlyRead):
                row_labels[: index.read] = IGNORED
        tensors = {name: torch.from_numpy(array).unbind() for name, array in made.items()}
        if self.form.packing == "none" and rows.filled is not None:
            ends = rows.filled.tolist()
        else:
            ends = [self.seq_len] * len(numbers)
        return [
            {name: some[place][:end] for name, some in tensors.items()}
            for place, end in enumerate(ends)
        ]

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A batch of samples, with the keys that are about all of it: a `collate_fn` for torch's
        own DataLoader, which needs none otherwise.
        """
        return collated(self.form, samples, self.seq_len)

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
