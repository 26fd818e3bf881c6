"""What becomes of a unit's documents besides encoding: the order of the steps, and their counts.

transform -> (encode) -> drop by length -> split by hash -> shuffle. A job without rules passes
through here once a batch, and no document is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.read import Batch
from pipelines.rows import Rows
from pipelines.shuffle import Shuffle
from pipelines.split import TRAIN, VALIDATION, in_validation
from pipelines.transform import Transform, apply_transform
from shards.manifest import DocumentRules
from shards.receipt import Counts


class UnitRules:
    """The rules at work on one unit.

    Args:
        text_column: the name under which a transform finds the documents.
        framed: whether each document gets a begin or an end token; without one, a document may have
            no token at all, and is dropped then.
        dtype: of the shards' tokens.

    Attributes:
        counts: of what was dropped and transformed, nothing else.
        splits: in which documents can be.
    """

    def __init__(
        self,
        rules: DocumentRules,
        unit: int,
        *,
        text_column: str,
        framed: bool,
        dtype: np.dtype[np.uint16] | np.dtype[np.uint32],
    ) -> None:
        self._rules, self._text_column, self._framed = rules, text_column, framed
        self._transform = Transform.of(rules)
        self._shuffle = None
        if rules.shuffle_seed is not None:
            self._shuffle = Shuffle(rules.shuffle_seed, unit, dtype)
        self._held_out: list[npt.NDArray[np.bool_]] = []
        self.splits = (TRAIN, VALIDATION) if rules.validation else (TRAIN,)
        self.counts = Counts()

    def transform(self, batch: Batch) -> tuple[pa.LargeStringArray, pa.RecordBatch | None]:
        """The documents to encode, and their kept columns."""
        if self._transform is None:
            return batch.documents, batch.columns
        documents, columns = apply_transform(
            self._transform, batch.documents, batch.columns, self._text_column
        )
        self.counts += Counts(transform_in=len(batch.documents), transform_out=len(documents))
        return documents, columns

    def places(self, batch: Batch) -> Callable[[int], str]:
        """Of the document with this number among those that `transform` gave for the batch."""
        if self._transform is None:
            return batch.place
        name, first = self._transform.name, batch.place(0)
        return lambda number: f"document {number} of {name}'s from {first} on"

    def select(
        self, documents: pa.LargeStringArray, rows: Rows
    ) -> tuple[pa.LargeStringArray, Rows]:
        """The documents within the limits, as text and encoded; the others are counted."""
        least, most = self._rules.min_tokens or 0, self._rules.max_tokens
        if self._framed and not least and most is None:
            return documents, rows
        lengths = rows.lengths
        empty = np.zeros(len(rows), np.bool_) if self._framed else lengths == 0
        short = (lengths < least) & ~empty
        long = np.zeros(len(rows), np.bool_) if most is None else lengths > most
        out = empty | short | long
        if not out.any():
            return documents, rows
        self.counts += Counts(
            dropped=int(out.sum()),
            dropped_empty=int(empty.sum()),
            dropped_short=int(short.sum()),
            dropped_long=int(long.sum()),
        )
        return documents.filter(pa.array(~out)), rows.where(~out)

    def place(self, documents: pa.LargeStringArray, rows: Rows) -> Iterator[tuple[str, Rows]]:
        """Documents with their split, when they can be written: now, or with a shuffle in `rest`.

        Args:
            documents: the text of `rows`.
        """
        held_out = None
        if self._rules.validation:
            held_out = in_validation(documents, self._rules.validation)
        if self._shuffle is None:
            yield from _by_split(rows, held_out)
            return
        self._shuffle.add(rows)
        if held_out is not None:
            self._held_out.append(held_out)

    def rest(self) -> Iterator[tuple[str, Rows]]:
        """What was kept back for the shuffle; to be called once, after the last document."""
        if self._shuffle is None:
            return
        held_out = np.concatenate(self._held_out) if self._held_out else None
        for rows, numbers in self._shuffle.rows():
            yield from _by_split(rows, None if held_out is None else held_out[numbers])


def _by_split(rows: Rows, held_out: npt.NDArray[np.bool_] | None) -> Iterator[tuple[str, Rows]]:
    if held_out is None:
        yield TRAIN, rows
        return
    for split, chosen in ((TRAIN, ~held_out), (VALIDATION, held_out)):
        if chosen.any():
            yield split, rows.where(chosen)
