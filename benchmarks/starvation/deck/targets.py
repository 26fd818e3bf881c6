"""Which tokens the loss is computed on, counted batch by batch.

A HF model shifts labels: the logits at a place are compared with the label of the place behind it.
So a row's first token is never a target, nor is any whose label is -100.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.starvation.cards.accelerator import Batch
from loaders.blocks import IGNORED

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """An epoch's batches. `rows`: of all batches. `targets`: int64 [vocabulary], how often each."""

    steps: int
    rows: int
    slots: int
    tokens: int
    targets: Ints

    @property
    def target_tokens(self) -> int:
        """Targets of any id."""
        return int(self.targets.sum())


def count(batches: Iterable[Batch], vocabulary: int) -> Counted:
    """Count an epoch; batches have `input_ids`, `labels`, `attention_mask`, int64 [rows, width]."""
    steps = rows = slots = tokens = 0
    targets = np.zeros(vocabulary, np.int64)
    for batch in batches:
        ids = batch["input_ids"]
        steps, rows, slots = steps + 1, rows + len(ids), slots + ids.numel()
        tokens += int(np.count_nonzero(batch["attention_mask"].numpy()))
        targets += np.bincount(shifted(batch), minlength=vocabulary)
    return Counted(steps, rows, slots, tokens, targets)


def shifted(batch: Batch) -> Ints:
    """Ids that a model which shifts labels is trained to predict, int64 [targets]."""
    labels = batch["labels"].numpy()[:, 1:]
    targets: Ints = labels[labels != IGNORED]
    return targets


def beyond(these: Ints, those: Ints) -> int:
    """How many of `these` are not in `those`, both multisets as counts by id."""
    return int(np.maximum(these - those, 0).sum())
