"""The shard: a plain Arrow IPC file whose bytes lie where a ranged read finds them.

One record batch, uncompressed, so all token values are one contiguous run. Each 64 KiB of that run
is a cell with a checksum; reads are rounded outward to cells.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from shards.errors import DatasetError

FORMAT: Final = "stoker-tokens"
FORMAT_VERSION: Final = 1
CELL_BYTES = 1 << 16
PACKS = "packs"  # the folder of plans that lie beside the data
TOKENS, LOSS_MASK = "input_ids", "loss_mask"
PLAN_ID = re.compile(r"[0-9a-f]{8,64}")

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Checksums = npt.NDArray[np.uint64]

if sys.byteorder != "little":
    raise ImportError("token shards are little-endian, and so must the machine be")


def token_dtype(largest_id: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The smallest dtype that holds every id up to `largest_id`.

    Raises:
        ValueError: negative, or 2**32 and above.
    """
    if not 0 <= largest_id < 1 << 32:
        raise ValueError(f"a token id must lie in [0, 2**32), not {largest_id}")
    return np.dtype(np.uint16) if largest_id < 1 << 16 else np.dtype(np.uint32)


def shard_path(plan: str, unit: int, part: int) -> str:
    """Key of a shard below its dataset: never stored, always made from these three."""
    return f"shards/{plan}/{unit:08d}-{part:03d}.arrow"


def packs_path(dataset: str, what: str) -> str:
    """Key of a plan of packs below its dataset: by the dataset's id, so that `gc` knows its plans,
    and a hash, 16 hex digits, of what else it is a plan of.
    """
    return f"{PACKS}/{dataset}-{what}.arrow"


def xxh3(data: Any) -> int:
    """XXH3 with 64 bits of anything with a buffer."""
    return int(xxhash.xxh3_64_intdigest(data))


@dataclass(frozen=True)
class Cells:
    """Checksums of a shard's cells, uint64 [cells] each; see docs/design.md for what they cover."""

    tokens_xxh3: Checksums
    first_document: Checksums
    documents_xxh3: Checksums
    loss_mask_xxh3: Checksums | None

    @classmethod
    def of(cls, offsets: Offsets, tokens: Tokens, loss_mask: npt.NDArray[np.uint8] | None) -> Cells:
        """The cells of a shard with these documents' offsets, tokens and mask."""
        step = CELL_BYTES // tokens.itemsize
        starts = np.arange(0, len(tokens), step)
        first = np.searchsorted(offsets, starts, side="right") - 1
        stops = np.append(np.minimum(first[1:] + 2, len(offsets)), len(offsets))
        return cls(
            tokens_xxh3=_hashes(tokens, starts, starts + step),
            first_document=first.astype(np.uint64),
            documents_xxh3=_hashes(offsets, first, stops),
            loss_mask_xxh3=None if loss_mask is None else _hashes(loss_mask, starts, starts + step),
        )

    def columns(self) -> dict[str, Checksums]:
        """By the names that the cells table has."""
        found = {
            "tokens_xxh3": self.tokens_xxh3,
            "first_document": self.first_document,
            "documents_xxh3": self.documents_xxh3,
        }
        if self.loss_mask_xxh3 is not None:
            found["loss_mask_xxh3"] = self.loss_mask_xxh3
        return found


def _hashes(
    values: npt.NDArray[np.generic], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> Checksums:
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    return np.array([xxh3(values[a:b]) for a, b in pairs], np.uint64)


@dataclass(frozen=True)
class Layout:
    """Where the runs of a shard file begin, in bytes; `loss_mask_at` is 0 without a mask."""

    tokens_at: int
    documents_at: int
    loss_mask_at: int


@dataclass(frozen=True)
class ShardContent:
    """A parsed shard; arrays are views of the file's bytes.

    Attributes:
        offsets: int64 [documents + 1], tokens before each document.
        tokens: [tokens], uint16 or uint32.
        loss_mask: uint8 [tokens], or None.
        columns: [documents] rows of further columns, perhaps of none.
    """

    layout: Layout
    offsets: Offsets
    tokens: Tokens
    loss_mask: npt.NDArray[np.uint8] | None
    columns: pa.RecordBatch


def parse_shard(data: pa.Buffer) -> ShardContent:
    """Opens a shard file that lies in memory.

    Raises:
        DatasetError: no Arrow IPC file, or not the shape of a shard.
    """
    try:
        reader = pa.ipc.open_file(pa.BufferReader(data))
        if reader.num_record_batches != 1:
            raise DatasetError(f"{reader.num_record_batches} record batches instead of one")
        batch = reader.get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowIndexError, OSError) as error:
        raise DatasetError(f"no Arrow IPC file: {error}") from error
    offsets, tokens, documents_at, tokens_at = _list_runs(batch, TOKENS, data)
    if tokens.dtype not in (np.dtype(np.uint16), np.dtype(np.uint32)):
        raise DatasetError(f"{TOKENS} holds {tokens.dtype}, not uint16 or uint32")
    mask, mask_at = None, 0
    if LOSS_MASK in batch.schema.names:
        mask_offsets, mask, _, mask_at = _list_runs(batch, LOSS_MASK, data)
        if mask.dtype != np.uint8 or not np.array_equal(mask_offsets, offsets):
            raise DatasetError(f"{LOSS_MASK} is not uint8 aligned with {TOKENS}")
    others = [name for name in batch.schema.names if name not in (TOKENS, LOSS_MASK)]
    layout = Layout(tokens_at, documents_at, mask_at)
    return ShardContent(layout, offsets, tokens, mask, batch.select(others))


def _list_runs(batch: pa.RecordBatch, name: str, data: pa.Buffer) -> tuple[Offsets, Any, int, int]:
    """Offsets and values of a large_list column, and where both begin in the file."""
    index = batch.schema.get_field_index(name)
    if index < 0 or not pa.types.is_large_list(batch.schema.field(index).type):
        raise DatasetError(f"no column {name} of type large_list")
    column = batch.column(index)
    if column.null_count or column.values.null_count or column.offset:
        raise DatasetError(f"column {name} has nulls")
    _, offsets_buffer, _, values_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(column) + 1)
    values = np.frombuffer(
        values_buffer, column.type.value_type.to_pandas_dtype(), len(column.values)
    )
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise DatasetError(f"column {name}: the offsets do not cover the values")
    return (
        offsets,
        values,
        offsets_buffer.address - data.address,
        values_buffer.address - data.address,
    )
