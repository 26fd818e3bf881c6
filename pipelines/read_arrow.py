"""Arrow IPC -> documents: the record batches of a slice, of files and of streams.

A file's footer says how many batches there are: batch i of n belongs to the slice in which byte
size * i // n lies. A stream has no footer: its messages' heads are followed from the start, and a
batch belongs to the slice in which its message begins.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipelines.files import InputFile, LocalFile
from pipelines.leaves import DAMAGE, check_leaves, leaf, leaf_types, rows_of
from pipelines.options import ReadOptions
from pipelines.plan import Slice
from pipelines.read import Batch
from shards.errors import StokerError

BATCH_BYTES = 8 << 20
_FILE_MAGIC, _FEATHER_1_MAGIC, _CONTINUATION = b"ARROW1", b"FEA1", b"\xff\xff\xff\xff"
_END = _CONTINUATION + bytes(4)
# A message's head is seldom longer; one read brings it.
_HEAD_BYTES = 4096
# MessageHeader of Arrow's Message.fbs.
_DICTIONARY, _RECORDS = 2, 3


def read(file: InputFile, piece: Slice, reading: ReadOptions) -> Iterator[Batch]:
    """The rows of the text column (a dot reaches into a struct) in the record batches of `piece`.

    A record batch is held whole: the memory of a task grows with the largest.
    """
    try:
        numbered = _of_file(file, piece, reading) if _is_file(file) else _of_stream(file, piece)
        for number, part, batch in numbered:
            check_leaves(leaf_types(batch.schema), file.uri, reading)
            _check_values(batch, reading)
            step = max(1, batch.num_rows * BATCH_BYTES // max(_text_bytes(batch, reading), 1))
            for first in range(0, batch.num_rows, step):
                place = partial(_row_place, number, first)
                yield rows_of(batch.slice(first, step), file.uri, place, reading, part)
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error


def types(file: InputFile) -> dict[str, pa.DataType]:
    """Type of each column by its dotted name; reads the schema."""
    try:
        if _is_file(file):
            return leaf_types(pa.ipc.open_file(_source(file)).schema)
        return leaf_types(pa.ipc.open_stream(pa.PythonFile(file, mode="r")).schema)
    except DAMAGE as error:
        raise _damaged(file.uri, error) from error


def _is_file(file: InputFile) -> bool:
    head = file.read_at(0, min(file.bytes, len(_FILE_MAGIC)))
    if head.startswith(_FEATHER_1_MAGIC):
        raise StokerError(
            f"{file.uri} is Feather version 1, which Arrow has given up: write it again with "
            "pyarrow.feather.write_feather"
        )
    return head == _FILE_MAGIC


def _source(file: InputFile) -> pa.NativeFile:
    # Not a memory map: reading one whose file shrinks kills the process.
    return pa.OSFile(file.uri) if isinstance(file, LocalFile) else pa.PythonFile(file, mode="r")


def _of_file(
    file: InputFile, piece: Slice, reading: ReadOptions
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(number in the file, slice's bytes read, record batch) of the slice's batches."""
    schema = pa.ipc.open_file(_source(file)).schema
    check_leaves(leaf_types(schema), file.uri, reading)
    names = [reading.text_column, *(reading.columns.names if reading.columns else ())]
    wanted = {name if name in schema.names else name.split(".")[0] for name in names}
    fields = [i for i, name in enumerate(schema.names) if name in wanted]
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    reader = pa.ipc.open_file(_source(file), options=options)
    count = reader.num_record_batches
    for number in range(count):
        if piece.start <= file.bytes * number // count < piece.stop:
            done = min(file.bytes * (number + 1) // count, piece.stop) - piece.start
            yield number, done, reader.get_batch(number)


# --- streams -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Message:
    """A message of a stream: what it is, and the bytes [start, stop) of its head and body."""

    kind: int
    start: int
    stop: int


def _of_stream(file: InputFile, piece: Slice) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """As `_of_file`: Arrow reads the schema, dictionaries from before, and the slice's batches."""
    before: list[_Message] = []
    mine: list[_Message] = []
    number = 0
    for message in _messages(file):
        if message.start >= piece.stop:
            break
        if message.start >= piece.start:
            mine.append(message)
        elif message.kind == _RECORDS:
            number += 1
        else:
            before.append(message)
    ends = [message.stop for message in mine if message.kind == _RECORDS]
    if not ends:
        return
    stream = pa.PythonFile(_Joined(file, before, mine), mode="r")
    reader = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(use_threads=False))
    for end in ends:
        yield number, min(end, piece.stop) - piece.start, reader.read_next_batch()
        number += 1


def _messages(file: InputFile) -> Iterator[_Message]:
    """The messages of a stream up to its end; reads their heads, not their bodies.

    Raises:
        pa.ArrowInvalid: it breaks off, or something follows its end.
    """
    at = 0
    while True:
        head = file.read_at(at, min(at + _HEAD_BYTES, file.bytes))
        if head.startswith(_END):
            if at + len(_END) != file.bytes:
                raise pa.ArrowInvalid(f"something follows the end of the stream at byte {at}")
            return
        if len(head) < len(_END):
            raise pa.ArrowInvalid(f"it breaks off at byte {at}, without the mark of its end")
        if not head.startswith(_CONTINUATION):
            raise pa.ArrowInvalid(f"no Arrow message begins at byte {at}")
        (length,) = struct.unpack_from("<i", head, 4)
        body_at = at + 8 + length
        if length < 0 or body_at > file.bytes:
            raise pa.ArrowInvalid(f"the message at byte {at} ends beyond the file")
        if body_at > at + len(head):
            head = file.read_at(at, body_at)
        kind, body = _kind_and_body(head[8 : 8 + length])
        if body < 0 or body_at + body > file.bytes:
            raise pa.ArrowInvalid(f"the message at byte {at} ends beyond the file")
        yield _Message(kind, at, body_at + body)
        at = body_at + body


def _kind_and_body(head: bytes) -> tuple[int, int]:
    """Type and length of the body: fields 1 and 3 of the flatbuffer `Message`."""
    try:
        (table,) = struct.unpack_from("<I", head, 0)
        (back,) = struct.unpack_from("<i", head, table)
        slots = table - back
        (size,) = struct.unpack_from("<H", head, slots)
        # A field left out has its default, as trailing ones have no slot at all.
        kind, _, body = (
            struct.unpack_from("<H", head, slots + at)[0] if at < size else 0 for at in (6, 8, 10)
        )
        (length,) = struct.unpack_from("<q", head, table + body) if body else (0,)
        return head[table + kind] if kind else 0, length
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid(f"the head of a message is damaged: {error}") from error


class _Joined(io.RawIOBase):
    """A stream of some messages of another: single ones, then those of a slice, then an end."""

    def __init__(self, file: InputFile, before: list[_Message], mine: list[_Message]) -> None:
        super().__init__()
        self._chunks = self._read(file, before, mine)
        self._rest = memoryview(b"")

    @staticmethod
    def _read(file: InputFile, before: list[_Message], mine: list[_Message]) -> Iterator[bytes]:
        for message in before:
            yield file.read_at(message.start, message.stop)
        yield from file.chunks(mine[0].start, mine[-1].stop)
        yield _END

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts: list[memoryview] = []
        missing = size if size is not None and size >= 0 else 1 << 62
        while missing:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


# --- values ------------------------------------------------------------------------------------


def _check_values(batch: pa.RecordBatch, reading: ReadOptions) -> None:
    """Raises pa.ArrowInvalid where offsets or indices point outside their buffers.

    Arrow trusts a file here. Bytes that aren't UTF-8 are no damage, but a row's.
    """
    batch.validate()
    names = [reading.text_column, *(reading.columns.names if reading.columns else ())]
    for name in names:
        _as_bytes(leaf(batch, name)).validate(full=True)


def _as_bytes(values: pa.Array) -> pa.Array:
    """Text as bytes, without a copy; other arrays as they are."""
    if pa.types.is_dictionary(values.type):
        return pa.DictionaryArray.from_arrays(
            values.indices, _as_bytes(values.dictionary), safe=False
        )
    texts = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }
    return values.view(texts[values.type]) if values.type in texts else values


def _text_bytes(batch: pa.RecordBatch, reading: ReadOptions) -> int:
    return int(leaf(batch, reading.text_column).get_total_buffer_size())


def _row_place(number: int, first: int, row: int) -> str:
    return f"record batch {number} row {first + row}"


def _damaged(uri: str, error: Exception) -> StokerError:
    return StokerError(
        f"{uri} is damaged, or no Arrow file or stream ({error}): what it lost is unknown, so the "
        "job ends. Restore it, or leave it out"
    )
