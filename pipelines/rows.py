"""Encoded documents with what belongs to each: the parcels that go through a unit's rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encode import offsets_of
from shards.format import Tokens


@dataclass(frozen=True)
class Rows:
    """Documents as ids, and their kept columns.

    Attributes:
        offsets: int64 [n + 1]: document i is ids [offsets[i], offsets[i + 1]).
        ids: uint32, or uint16 where a rule held them as the shards will; no begin and end tokens.
        columns: [n] rows; None where none are kept.
    """

    offsets: npt.NDArray[np.int64]
    ids: Tokens
    columns: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n]: ids of each document."""
        return np.diff(self.offsets)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """The documents that are `chosen`, bool [n], in order; no copy when it is all of them."""
        if chosen.all():
            return self
        # Runs of neighbours are copied as one: 10x a mask over the ids where few are left out.
        edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
        borders = self.offsets[edges].tolist()
        runs = [self.ids[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True)]
        columns = None if self.columns is None else self.columns.filter(pa.array(chosen))
        # A union of dtypes.
        ids: Tokens = np.concatenate(runs) if runs else self.ids[:0]  # type: ignore[assignment]
        return Rows(offsets_of(self.lengths[chosen]), ids, columns)
