"""Three ways to feed the same training loop: no work at all, Stoker, inline tokenization.

Each gives an endless iterator of batches {"input_ids", "labels"}, int64 [batch_size, seq_len]: the
same text, packed the same way (documents one after the other, an end token behind each, cut every
seq_len).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, get_worker_info

from benchmarks.starvation.accelerator import Batch
from loaders import DataLoader, TokenDataset
from pipelines.inputs import find_inputs
from pipelines.options import ReadOptions
from pipelines.plan import Unit, cut_units
from pipelines.read import check_columns, read_unit
from shards.errors import StokerError

# What a worker hands to the tokenizer at once: enough to amortize the call, little enough not to
# burst.
CHUNK_BYTES = 64 * 1024
SMALLEST_UNIT = 256 * 1024


class Contender(Protocol):
    """A source of batches; `bounded` is False where it has no speed of its own."""

    @property
    def name(self) -> str:
        """A word for programs."""

    @property
    def title(self) -> str:
        """Its name for people."""

    @property
    def note(self) -> str:
        """How it works, in half a line."""

    @property
    def bounded(self) -> bool:
        """See above."""

    def open(self) -> Iterator[Batch]:
        """Start it: an endless iterator."""

    def timeline(self) -> np.ndarray | None:
        """What it knows about the way of its batches (`loaders.stats`), or None."""


@dataclass
class ResidentBatch:
    """One batch, given again and again: what the loop does when input costs nothing."""

    batch: Batch
    name: str = field(default="resident", init=False)
    title: str = field(default="batch already there", init=False)
    note: str = field(default="the ceiling: no input work at all", init=False)
    bounded: bool = field(default=False, init=False)

    def open(self) -> Iterator[Batch]:
        """See `Contender.open`."""
        while True:
            yield self.batch

    def timeline(self) -> None:
        """See `Contender.timeline`."""


@dataclass
class Stoker:
    """Stoker's loader over a token dataset, shuffled, epoch after epoch."""

    uri: str
    seq_len: int
    batch_size: int
    split: str = "train"
    pin_memory: bool = False
    name: str = field(default="stoker", init=False)
    title: str = field(default="Stoker", init=False)
    note: str = field(default="token shards, shuffled", init=False)
    bounded: bool = field(default=True, init=False)
    _loader: Any = field(default=None, init=False)

    def open(self) -> Iterator[Batch]:
        """See `Contender.open`."""
        dataset = TokenDataset(self.uri, self.seq_len, split=self.split)
        if len(dataset) < self.batch_size:
            raise StokerError(
                f"{self.uri} holds {len(dataset)} samples of {self.seq_len} tokens, less than one"
                f" batch of {self.batch_size}: choose a smaller --seq-len or --batch-size"
            )
        self._loader = DataLoader(
            dataset, self.batch_size, shuffle=True, drop_last=True, pin_memory=self.pin_memory
        )
        while True:
            yield from self._loader

    def timeline(self) -> np.ndarray:
        """See `Contender.timeline`."""
        rows: np.ndarray = self._loader.timeline()
        return rows


@dataclass
class InlineTokenization:
    """The same text through HF `tokenizers` in the worker processes of a torch DataLoader.

    It is excused from shuffling and from ends of epochs. `tokenizer` is the serialized form.
    """

    units: Sequence[Unit]
    tokenizer: str
    end_id: int
    seq_len: int
    batch_size: int
    workers: int
    reading: ReadOptions = field(default_factory=ReadOptions)
    special_tokens: str = "text"
    pin_memory: bool = False
    name: str = field(default="inline", init=False)
    title: str = field(default="inline tokenization", init=False)
    bounded: bool = field(default=True, init=False)

    @property
    def note(self) -> str:
        """See `Contender.note`."""
        processes = f"{self.workers} worker process{'' if self.workers == 1 else 'es'}"
        return f"HF tokenizers in a torch DataLoader, {processes}"

    def open(self) -> Iterator[Batch]:
        """See `Contender.open`."""
        # A forked worker would leave the work to threads of its parent that it does not have.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = TorchDataLoader(
            InlineDataset(self),
            self.batch_size,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
        )
        return iter(loader)

    def timeline(self) -> None:
        """See `Contender.timeline`."""


class InlineDataset(IterableDataset[Batch]):
    """Endless packed samples of `job`: its units dealt to the workers, read and tokenized there.

    With one worker the samples are those of the token dataset, in its order.
    """

    def __init__(self, job: InlineTokenization) -> None:
        self.job = job

    def __iter__(self) -> Iterator[Batch]:
        """Samples of this worker's units, over and over."""
        job = self.job
        tokenizer = Tokenizer.from_str(job.tokenizer)
        tokenizer.encode_special_tokens = job.special_tokens == "text"
        rest = np.empty(0, dtype=np.int64)
        for texts in self._texts():
            runs = [rest]
            for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                runs.append(np.array([*encoding.ids, job.end_id], dtype=np.int64))
            stream = np.concatenate(runs)
            whole = len(stream) // job.seq_len
            for sample in stream[: whole * job.seq_len].reshape(whole, job.seq_len):
                input_ids = torch.from_numpy(sample)
                yield {"input_ids": input_ids, "labels": input_ids.clone()}
            rest = stream[whole * job.seq_len :]

    def _texts(self) -> Iterator[list[str]]:
        """Documents without end, as many at a time as make about `CHUNK_BYTES`."""
        job, info = self.job, get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = job.units[number::workers]
        while True:
            chunks = 0
            for unit in mine:
                for chunk in self._chunks(unit):
                    chunks += 1
                    yield chunk
            if chunks:
                continue
            if len(mine) == len(job.units):
                raise StokerError("the text given for inline tokenization holds no document")
            # Few units, or few row groups: this worker shares the text, an idle one would be
            # held against it.
            mine = job.units

    def _chunks(self, unit: Unit) -> Iterator[list[str]]:
        for batch in read_unit(unit, self.job.reading):
            chunk: list[str] = []
            size = 0
            for document in batch.documents:
                text = document.as_py()
                chunk.append(text)
                size += len(text)
                if size >= CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
            if chunk:
                yield chunk


def find_units(
    names: Sequence[str], workers: int, reading: ReadOptions | None = None
) -> list[Unit]:
    """The inputs that `names` mean, cut finely enough that every worker has some.

    Raises:
        StokerError: no such input, or Parquet without such a column.
    """
    reading = reading or ReadOptions()
    inputs = find_inputs(names)
    total = sum(item.size for item in inputs)
    workers = max(1, workers)
    unit_bytes = max(1, min(SMALLEST_UNIT, total // workers), total // (4 * workers))
    units = list(cut_units(inputs, unit_bytes, reading))
    pieces = (piece for unit in units for piece in unit.slices)
    # Here, since an error in a worker process reaches a person as a traceback.
    check_columns(pieces, reading)
    return units
