"""The documents of a unit in another order, the same one for the same seed and unit.

All of a unit's ids are held meanwhile, 2 or 4 bytes a token. A unit is at most 256 MiB of input by
default, about 64 M tokens of plain text or, unpacked, 3 to 5 times as many of Parquet or .zst: so
0.13 to 1.3 GB beside what a worker needs anyway. `--unit-bytes` makes it less.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encode import offsets_of
from pipelines.rows import Rows

_BATCH_TOKENS = 1 << 21


def shuffled(count: int, seed: int, unit: int) -> npt.NDArray[np.int64]:
    """int64 [count]: a permutation, a function of the three alone.

    Numbers 0..count - 1 in order of keys made by splitmix64; numpy's generators promise no stable
    stream from version to version.
    """
    start = _mix(np.array([seed % (1 << 64)], np.uint64) ^ _mix(np.array([unit], np.uint64)))
    keys = _mix(start + np.arange(count, dtype=np.uint64) * _GOLDEN)
    return np.argsort(keys, kind="stable")


_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finalizer (Steele, Lea, Flood 2014), a bijection of 64-bit numbers."""
    mixed = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ (mixed >> np.uint64(31))


class Shuffle:
    """Takes a unit's documents, then gives them back in their new order.

    Args:
        dtype: that ids are held in meanwhile.
    """

    def __init__(
        self, seed: int, unit: int, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]
    ) -> None:
        self._seed, self._unit, self._dtype = seed, unit, dtype
        self._ids: list[npt.NDArray[np.unsignedinteger]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._columns: list[pa.RecordBatch] = []

    def add(self, rows: Rows) -> None:
        """Takes these documents, a copy of them."""
        if len(rows):
            self._ids.append(rows.ids[rows.offsets[0] : rows.offsets[-1]].astype(self._dtype))
            self._lengths.append(rows.lengths)
            if rows.columns is not None:
                self._columns.append(rows.columns)

    def rows(self) -> Iterator[tuple[Rows, npt.NDArray[np.int64]]]:
        """All documents in their new order, some at a time, and the numbers they came in with."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        order = shuffled(len(lengths), self._seed, self._unit)
        runs = np.repeat(np.arange(len(self._lengths)), [len(run) for run in self._lengths])
        starts = np.concatenate([offsets_of(run)[:-1] for run in self._lengths] or [lengths])
        columns = pa.concat_batches(self._columns) if self._columns else None
        ends = np.cumsum(lengths[order])
        first = 0
        while first < len(order):
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + _BATCH_TOKENS, side="right"))
            chosen = order[first : max(last, first + 1)]
            first += len(chosen)
            places = zip(
                runs[chosen].tolist(),
                starts[chosen].tolist(),
                lengths[chosen].tolist(),
                strict=True,
            )
            ids = np.concatenate([self._ids[run][at : at + n] for run, at, n in places])
            taken = None if columns is None else columns.take(pa.array(chosen))
            yield Rows(offsets_of(lengths[chosen]), ids, taken), chosen
