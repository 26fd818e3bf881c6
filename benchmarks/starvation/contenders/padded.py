"""The deck's fine-tuning loop: a row of text a sample, cut to 512 tokens, padded to the longest.

As HF's examples do it: rows are tokenized once, before training, and `Trainer` shuffles and
collates them in the process that trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.contenders.work import KeptWork, TimedCollate, WorkClock
from benchmarks.starvation.loop.epochs import Epochs
from pipelines.options import ReadOptions
from pipelines.plan import Unit
from pipelines.read import read_unit
from shards.errors import StokerError

MAX_LENGTH = 512


@dataclass
class PaddedRows:
    """Rows of text through a HF tokenizer and HF's own collator, nothing packed.

    `tokenizer`: folder of a HF tokenizer, on this disk. Rows that are empty stay, as in the deck's
    job: see `encode_rows`. The rows are tokenized when it is made, off the clock.

    Raises:
        StokerError: the text holds no row.
    """

    units: Sequence[Unit]
    tokenizer: str
    batch_size: int
    max_length: int = MAX_LENGTH
    workers: int = 0
    reading: ReadOptions = field(default_factory=ReadOptions)
    pin_memory: bool = False
    name: str = field(default="padded", init=False)
    title: str = field(default="the deck's collate", init=False)
    bounded: bool = field(default=True, init=False)
    _kept: KeptWork = field(default_factory=KeptWork, init=False, repr=False)
    _begun: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        made = open_tokenizer(self.tokenizer)
        if made.pad_token is None:
            made.pad_token = made.eos_token
        self._collate = DataCollatorForLanguageModeling(made, mlm=False)
        self.rows = encode_rows(self.units, made, self.reading, self.max_length)

    @property
    def note(self) -> str:
        """See `Contender.note`."""
        return f"rows cut to {self.max_length} tokens, padded to the longest of a batch"

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be short, as `Trainer`'s is."""
        return -(-len(self.rows) // self.batch_size)

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`."""
        return nullcontext()

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`; also `attention_mask`."""
        clock = WorkClock()
        loader: TorchDataLoader[Any] = TorchDataLoader(
            self.rows,  # type: ignore[arg-type]
            self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=TimedCollate(clock, self._pad),
        )
        # What comes out of it is a pair: the batch, and what was done for it.
        epochs = Epochs(loader, "the deck's collate has no row")
        self._kept = KeptWork()
        self._begun = epochs.begun
        pairs: Iterator[Any] = epochs
        return self._kept.batches(pairs)

    def epochs(self) -> tuple[int, ...]:
        """See `Contender.epochs`."""
        return tuple(self._begun)

    def timeline(self) -> np.ndarray:
        """See `Contender.timeline`."""
        return self._kept.rows()

    def _pad(self, rows: list[list[int]]) -> Batch:
        samples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows]
        padded = self._collate(samples)
        return dict(padded)


def open_tokenizer(folder: str) -> Any:
    """The HF tokenizer of a folder on this disk; nothing is fetched.

    Raises:
        StokerError: no such folder, or none in it.
    """
    if not Path(folder).is_dir():
        raise StokerError(f"{folder}: no such folder; a HF tokenizer's is wanted")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StokerError(f"{folder}: no folder with a HF tokenizer: {reason}") from error


def begin_token(tokenizer: Any) -> int | None:
    """The id that Llama's own tokenizer begins each row with; None where there is no such token.

    Serialized copies of it often lack the rule that writes it, which the deck's job had.
    """
    begin: int | None = tokenizer.bos_token_id
    return None if begin == tokenizer.eos_token_id else begin


def encode_rows(
    units: Sequence[Unit], tokenizer: Any, reading: ReadOptions, max_length: int | None = None
) -> list[list[int]]:
    """Ids of every row of the text, empty ones too, each cut to `max_length` (None: none is cut).

    A row begins with `begin_token`, whether or not the tokenizer writes it itself. Without such a
    token an empty row is one end token: a row has to be something.

    Raises:
        StokerError: the text holds no row.
    """
    texts = [
        row.as_py()
        for unit in units
        for batch in read_unit(unit, reading)
        for row in batch.documents
    ]
    if not texts:
        raise StokerError("the text given for the deck's collate holds no row")
    begin = begin_token(tokenizer)
    first = [] if begin is None or tokenizer("")["input_ids"][:1] == [begin] else [begin]
    room = None if max_length is None else max_length - len(first)
    encoded = tokenizer(texts, truncation=room is not None, max_length=room)["input_ids"]
    return [first + ids or [tokenizer.eos_token_id] for ids in encoded]
