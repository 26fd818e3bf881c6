"""Documents in, the bytes of a shard and everything that is known about them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.format import (
    LOSS_MASK,
    TOKENS,
    Cells,
    Layout,
    Offsets,
    Tokens,
    parse_shard,
    xxh3,
)
from shards.pages import Pages

_AROUND = 4096


@dataclass(frozen=True)
class BuiltShard:
    """A shard that is ready to be written.

    Attributes:
        data: the file, the same bytes for the same arguments on every machine.
        xxh3: of the whole file.
    """

    data: pa.Buffer
    tokens: int
    documents: int
    layout: Layout
    xxh3: int
    cells: Cells


def build_shard(
    offsets: Offsets,
    tokens: Tokens,
    *,
    loss_mask: npt.NDArray[np.uint8] | None = None,
    columns: Mapping[str, pa.Array] | None = None,
    pages: Pages | None = None,
) -> BuiltShard:
    """Builds a shard in memory.

    Args:
        offsets: int64 [documents + 1]: document i is tokens [offsets[i], offsets[i + 1]).
        tokens: uint16 or uint32 [offsets[-1]].
        loss_mask: uint8 [tokens]: 0 where a token's loss doesn't count.
        columns: further columns, one scalar a document.
        pages: where `data` is taken from, for who gives it back; None: fresh memory.

    Raises:
        ValueError: no tokens, or lengths, order or dtypes that don't fit together.
    """
    _check(offsets, tokens, loss_mask)
    lists = {TOKENS: tokens} if loss_mask is None else {TOKENS: tokens, LOSS_MASK: loss_mask}
    fields, arrays = [], []
    for name, values in lists.items():
        item = pa.field("item", pa.from_numpy_dtype(values.dtype), nullable=False)
        kind = pa.large_list(item)
        arrays.append(
            pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), pa.array(values), type=kind
            )
        )
        fields.append(pa.field(name, kind, nullable=False))
    for name, column in (columns or {}).items():
        if name in lists or len(column) != len(offsets) - 1:
            raise ValueError(
                f"column {name!r}: its name is taken, or it hasn't one value a document"
            )
        arrays.append(column)
        fields.append(pa.field(name, column.type))
    data = to_ipc(pa.record_batch(arrays, schema=pa.schema(fields)), pages)
    return BuiltShard(
        data=data,
        tokens=len(tokens),
        documents=len(offsets) - 1,
        layout=parse_shard(data).layout,
        xxh3=xxh3(data),
        cells=Cells.of(offsets, tokens, loss_mask),
    )


def to_ipc(batch: pa.RecordBatch, pages: Pages | None = None) -> pa.Buffer:
    """An Arrow IPC file with this one record batch, uncompressed.

    Args:
        pages: where its memory is taken from; None: fresh memory.
    """
    # The schema stands at the beginning and in the footer, which has less besides than _AROUND.
    size = pa.ipc.get_record_batch_size(batch) + 2 * batch.schema.serialize().size + _AROUND
    memory = pa.allocate_buffer(size) if pages is None else pages.take(size)
    sink = pa.FixedSizeBufferWriter(memory)
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions()) as writer:
        writer.write_batch(batch)
    return memory.slice(0, sink.tell())


def _check(offsets: Offsets, tokens: Tokens, loss_mask: npt.NDArray[np.uint8] | None) -> None:
    if offsets.dtype != np.int64 or tokens.dtype not in (np.uint16, np.uint32):
        raise ValueError(
            f"offsets must be int64, tokens uint16 or uint32, not {offsets.dtype}, {tokens.dtype}"
        )
    if len(tokens) == 0 or len(offsets) < 2:
        raise ValueError("a shard holds at least one token")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or np.any(np.diff(offsets) < 0):
        raise ValueError(f"offsets must rise from 0 to {len(tokens)}, the number of tokens")
    if loss_mask is not None and (loss_mask.dtype != np.uint8 or len(loss_mask) != len(tokens)):
        raise ValueError("loss_mask must be uint8 and as long as the tokens")
