"""Lines and text files -> documents. A line is bytes ended by a newline byte; nothing else ends it.

Where another separator ends documents, they are the lines here. A line belongs to the slice it
starts in: a slice's content begins where the first line starts at or after its start, and ends
where the next slice's content begins. Neighbours ask the same question of the same bytes, so each
line comes once, however a file is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.files import InputFile, decompressed
from pipelines.options import show_size
from pipelines.plan import Slice, may_overlap
from pipelines.read import LARGEST_DOCUMENT, Batch, make_batch
from shards.errors import StokerError

_SEARCH_BYTES = 64 << 10


def read_texts(file: InputFile, piece: Slice, ending: bytes) -> Iterator[Batch]:
    """What lies between endings is a document, an empty one too; nothing after the last is none.

    Where lines end with a return and a newline, neither belongs to the document.
    """
    for done, offset, block in blocks_of(file, piece, ending):
        start = partial(_text_place, piece, offset, block, ending)
        # Only at the end of a line a return is no part of it.
        plain = block
        if ending == b"\n" and b"\r" in block:
            plain = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
        whole = pa.array([plain], pa.large_binary())
        yield make_batch(pc.split_pattern(whole, ending).flatten(), file.uri, start, done)


def read_text_file(file: InputFile, piece: Slice) -> Iterator[Batch]:
    """The whole file is one document."""
    parts: list[bytes] = []
    held = 0
    for _, data in _content(file, piece):
        held += len(data)
        if held > LARGEST_DOCUMENT:
            raise _too_long(file.uri, "the file as one document", 0)
        parts.append(data)
    yield make_batch([b"".join(parts)], file.uri, lambda _: "the whole file", piece.bytes)


def place_of(piece: Slice, offset: int, what: str = "line") -> str:
    """Where a line is, for people: the byte of its first character."""
    where = f"{what} at byte {offset}"
    return f"{where} of the {piece.compression} content" if piece.compression else where


def _text_place(piece: Slice, offset: int, block: bytes, ending: bytes, number: int) -> str:
    texts = block.split(ending, number)[:number]
    at = offset + sum(len(text) + len(ending) for text in texts)
    return place_of(piece, at, "line" if ending == b"\n" else "text")


def blocks_of(file: InputFile, piece: Slice, ending: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(slice's bytes read, offset of a block, block), in order.

    A block is some whole lines; the ending of the last of them is left out.
    """
    begin = 0 if piece.compression else after_ending(file, piece.start, ending)
    overlaps = may_overlap(ending)
    # `rest` is what a line has so far; in its last bytes an ending may have begun.
    offset, rest, held = begin, list[bytes](), 0
    done = 0
    for done, chunk in _content(file, piece, ending, begin):
        data = _last_bytes(rest, len(ending) - 1) + chunk
        if overlaps:
            # Endings count from the left.
            cut = len(data) - len(data.split(ending)[-1])
        else:
            found = data.rfind(ending)
            cut = found + len(ending) if found >= 0 else 0
        if cut:
            block = b"".join((*rest, data[: cut - len(ending)]))
            yield done, offset, block
            offset += len(block) + len(ending)
            rest = []
        rest.append(data[cut:])
        held = sum(map(len, rest))
        if held > LARGEST_DOCUMENT:
            raise _too_long(file.uri, "a line" if ending == b"\n" else "a document", offset)
    if held:
        yield done, offset, b"".join(rest)


def _last_bytes(parts: list[bytes], count: int) -> bytes:
    """Takes the last `count` bytes off `parts`, fewer where there are no more."""
    taken = b""
    while parts and len(taken) < count:
        last = parts.pop()
        cut = max(0, len(last) - (count - len(taken)))
        taken = last[cut:] + taken
        if cut:
            parts.append(last[:cut])
    return taken


def _content(
    file: InputFile, piece: Slice, ending: bytes = b"\n", begin: int = 0
) -> Iterator[tuple[int, bytes]]:
    """(slice's bytes read, data): the whole file unfolded, or the slice's lines from `begin`."""
    if piece.compression:
        yield from decompressed(file, piece.compression)
        return
    end = after_ending(file, piece.stop, ending) if piece.stop < file.bytes else file.bytes
    for data in file.chunks(begin, end):
        begin += len(data)
        yield min(begin, piece.stop) - piece.start, data


def after_ending(file: InputFile, position: int, ending: bytes) -> int:
    """Where the first line at or after `position` starts; the file's end if none does."""
    if position == 0:
        return 0
    at, seen = max(0, position - len(ending)), b""
    while at < file.bytes:
        if at - position > LARGEST_DOCUMENT:
            raise _too_long(file.uri, "a line" if ending == b"\n" else "a document", position)
        data = seen + file.read_at(at, min(at + _SEARCH_BYTES, file.bytes))
        at += len(data) - len(seen)
        found = data.find(ending)
        if found >= 0:
            return at - len(data) + found + len(ending)
        seen = data[len(data) - len(ending) + 1 :] if len(data) >= len(ending) else data
    return file.bytes


def _too_long(uri: str, what: str, offset: int) -> StokerError:
    return StokerError(
        f"{uri} byte {offset}: {what} is longer than {show_size(LARGEST_DOCUMENT)}, the most a "
        "document may have. Is it the format you named?"
    )
