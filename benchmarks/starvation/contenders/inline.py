"""What many do: the text tokenized while they train, in the workers of a torch DataLoader."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.contenders.work import KeptWork, TimedCollate, WorkClock
from pipelines.inputs import find_inputs
from pipelines.options import ReadOptions
from pipelines.plan import Unit, cut_units
from pipelines.read import check_columns, read_unit
from shards.errors import StokerError

# What a worker hands to the tokenizer at once: enough to amortize the call, little enough not to
# burst.
CHUNK_BYTES = 64 * 1024
SMALLEST_UNIT = 256 * 1024


@dataclass
class InlineTokenization:
    """The same text through HF `tokenizers` in the worker processes of a torch DataLoader.

    It is excused from shuffling and from ends of epochs. `tokenizer` is the serialized form.
    `slow_worker_s`: how long worker 0 pauses in each of its batches, for a test of the report.
    Each batch brings along what its worker did for it and when.
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
    slow_worker_s: float = 0.0
    name: str = field(default="inline", init=False)
    title: str = field(default="inline tokenization", init=False)
    bounded: bool = field(default=True, init=False)
    _kept: KeptWork = field(default_factory=KeptWork, init=False, repr=False)

    @property
    def note(self) -> str:
        """See `Contender.note`."""
        processes = f"{self.workers} worker process{'' if self.workers == 1 else 'es'}"
        return f"HF tokenizers in a torch DataLoader, {processes}"

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`."""
        return nullcontext()

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`; the order of seed 0 is that of the text."""
        # A forked worker would leave the work to threads of its parent that it does not have.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        clock = WorkClock()
        loader = TorchDataLoader(
            InlineDataset(self, clock, seed),
            self.batch_size,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            collate_fn=TimedCollate(clock, default_collate),
        )
        self._kept = KeptWork()
        return self._kept.batches(iter(loader))

    def epochs(self) -> tuple[int, ...]:
        """See `Contender.epochs`: its workers go on where their part of the text ends."""
        return ()

    def with_workers(self, workers: int) -> InlineTokenization:
        """The same with so many processes; its units should be enough for them."""
        return replace(self, workers=workers)

    def timeline(self) -> np.ndarray:
        """See `Contender.timeline`."""
        return self._kept.rows()


class InlineDataset(IterableDataset[Batch]):
    """Endless packed samples of `job`: its units dealt to the workers, read and tokenized there.

    With one worker the samples are those of the token dataset, in its order. `clock` is told what
    goes on. Seeds above 0 are other orders of the units, and of the documents that are read
    together.
    """

    def __init__(self, job: InlineTokenization, clock: WorkClock, seed: int = 0) -> None:
        self.job = job
        self.clock = clock
        self.seed = seed
        self.units = [job.units[at] for at in self._order(len(job.units), "units")]

    def _order(self, count: int, *what: object) -> list[int]:
        """An order of so many things; `what` names them."""
        if not self.seed:
            return list(range(count))
        order = list(range(count))
        random.Random(repr((self.seed, *what))).shuffle(order)
        return order

    def __iter__(self) -> Iterator[Batch]:
        """Samples of this worker's units, over and over."""
        job, clock = self.job, self.clock
        clock.doing("prep")
        tokenizer = Tokenizer.from_str(job.tokenizer)
        tokenizer.encode_special_tokens = job.special_tokens == "text"
        rest = np.empty(0, dtype=np.int64)
        given = 0
        for texts in self._texts():
            clock.doing("prep")
            runs = [rest]
            for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                runs.append(np.array([*encoding.ids, job.end_id], dtype=np.int64))
            stream = np.concatenate(runs)
            whole = len(stream) // job.seq_len
            clock.doing("assemble")
            for sample in stream[: whole * job.seq_len].reshape(whole, job.seq_len):
                input_ids = torch.from_numpy(sample)
                self._pause(given)
                given += 1
                yield {"input_ids": input_ids, "labels": input_ids.clone()}
                clock.doing("assemble")
            rest = stream[whole * job.seq_len :]

    def _pause(self, given: int) -> None:
        """What makes worker 0 slow, at the first sample of each batch."""
        info = get_worker_info()
        first = given % self.job.batch_size == 0
        if self.job.slow_worker_s and first and (info is None or info.id == 0):
            self.clock.doing("prep")
            time.sleep(self.job.slow_worker_s)
            self.clock.doing("assemble")

    def _texts(self) -> Iterator[list[str]]:
        """Documents without end, as many at a time as make about `CHUNK_BYTES`."""
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = self.units[number::workers]
        while True:
            chunks = 0
            for unit in mine:
                for chunk in self._chunks(unit):
                    chunks += 1
                    yield chunk
            if chunks:
                continue
            if len(mine) == len(self.units):
                raise StokerError("the text given for inline tokenization holds no document")
            # Few units, or few row groups: this worker shares the text, an idle one would be
            # held against it.
            mine = self.units

    def _chunks(self, unit: Unit) -> Iterator[list[str]]:
        self.clock.doing("fetch")
        for number, batch in enumerate(read_unit(unit, self.job.reading)):
            self.clock.doing("prep")
            chunk: list[str] = []
            size = 0
            for at in self._order(len(batch.documents), "documents", number):
                text = batch.documents[at].as_py()
                chunk.append(text)
                size += len(text)
                if size >= CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
            if chunk:
                yield chunk
            self.clock.doing("fetch")


def find_units(
    names: Sequence[str], workers: int, reading: ReadOptions | None = None
) -> list[Unit]:
    """The inputs that `names` mean, cut finely enough that every worker has some.

    Raises:
        StokerError: no such input, or Parquet without such a column.
    """
    reading = reading or ReadOptions()
    try:
        inputs = find_inputs(names)
    except StokerError as error:
        # The tokenize job's option.
        raise StokerError(str(error).replace("--input", "--text")) from error
    total = sum(item.size for item in inputs)
    workers = max(1, workers)
    unit_bytes = max(1, min(SMALLEST_UNIT, total // workers), total // (4 * workers))
    units = list(cut_units(inputs, unit_bytes, reading))
    pieces = (piece for unit in units for piece in unit.slices)
    # Here, since an error in a worker process reaches a person as a traceback.
    check_columns(pieces, reading)
    return units
