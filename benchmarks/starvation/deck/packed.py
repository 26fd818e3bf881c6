"""Stoker's packed rows as a contender: documents whole, attention and loss inside each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.contenders import Stoker
from loaders.blocks import IGNORED

FORM: Mapping[str, Any] = {"packing": "best_fit", "document_mask": True}


@dataclass
class PackedRows(Stoker):
    """Stoker over a dataset that has a plan: rows of documents that fit together.

    Its batches also have an `attention_mask` that says what is padding, so that the report can
    count it: a document mask alone doesn't.
    """

    form: Mapping[str, Any] = field(default_factory=lambda: dict(FORM))
    note: str = field(default="documents packed into rows, none mixed with another", init=False)

    @property
    def title(self) -> str:
        """See `Contender.title`."""
        return "Stoker, packed"

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`; also `position_ids` and where documents begin."""
        return map(self._masked, super().open(seed))

    def _masked(self, batch: Batch) -> Batch:
        """What of `batch` is a tensor, and the mask, page-locked as they are."""
        tensors = {key: one for key, one in batch.items() if isinstance(one, torch.Tensor)}
        mask = filled(batch)
        return tensors | {"attention_mask": mask.pin_memory() if self.pin_memory else mask}


def filled(batch: Batch) -> torch.Tensor:
    """int64 [batch, seq_len], 1 where a slot holds a token: padding is the end of a row.

    There ids are 0 and nothing is a label. A row whose last token has the id 0 is counted one too
    short.
    """
    # numpy: torch would wake its thread pool, which spins on cores that the loader needs.
    ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    used = (ids != 0) | (labels != IGNORED)
    backwards = used[:, ::-1].cumsum(axis=1)[:, ::-1]
    return torch.from_numpy((backwards > 0).astype("int64"))
