"""Lines and text files -> documents. A line is bytes ended by a newline byte; nothing else ends it.

A line belongs to the slice it starts in: a slice's content begins where the first line starts at or
after its start, and ends where the next slice's content begins. Neighbours ask the same question of
the same bytes, so each line comes once, however a file is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipelines.files import InputFile, decompressed
from pipelines.options import show_size
from pipelines.plan import Slice
from pipelines.read import LARGEST_DOCUMENT, Batch, make_batch
from shards.errors import StokerError

_SEARCH_BYTES = 64 << 10


def read_text_lines(file: InputFile, piece: Slice) -> Iterator[Batch]:
    """Each line is a document, an empty one too; its end may be a newline after a return."""
    for done, offset, lines in lines_of(file, piece):
        starts = partial(_line_place, piece, offset, lines)
        yield make_batch([line.removesuffix(b"\r") for line in lines], file.uri, starts, done)


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


def place_of(piece: Slice, offset: int) -> str:
    """Where a line is, for people: the byte of its first character."""
    where = f"line at byte {offset}"
    return f"{where} of the {piece.compression} content" if piece.compression else where


def _line_place(piece: Slice, offset: int, lines: list[bytes], number: int) -> str:
    return place_of(piece, offset + sum(len(line) + 1 for line in lines[:number]))


def lines_of(file: InputFile, piece: Slice) -> Iterator[tuple[int, int, list[bytes]]]:
    """(slice's bytes read, offset of the first line, lines without their newlines), in order."""
    begin = 0 if piece.compression else after_newline(file, piece.start)
    offset, rest, held = begin, list[bytes](), 0
    done = 0
    for done, data in _content(file, piece, begin):
        cut = data.rfind(b"\n") + 1
        if cut:
            block = b"".join((*rest, data[: cut - 1]))
            yield done, offset, block.split(b"\n")
            offset += len(block) + 1
            rest, held = [], 0
        rest.append(data[cut:])
        held += len(data) - cut
        if held > LARGEST_DOCUMENT:
            raise _too_long(file.uri, "a line", offset)
    if held:
        yield done, offset, [b"".join(rest)]


def _content(file: InputFile, piece: Slice, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """(slice's bytes read, data): the whole file unfolded, or the slice's lines from `begin`."""
    if piece.compression:
        yield from decompressed(file, piece.compression)
        return
    end = after_newline(file, piece.stop) if piece.stop < file.bytes else file.bytes
    for data in file.chunks(begin, end):
        begin += len(data)
        yield min(begin, piece.stop) - piece.start, data


def after_newline(file: InputFile, position: int) -> int:
    """Where the first line at or after `position` starts; the file's end if none does."""
    if position == 0:
        return 0
    at = position - 1
    while at < file.bytes:
        if at - position > LARGEST_DOCUMENT:
            raise _too_long(file.uri, "a line", position)
        data = file.read_at(at, min(at + _SEARCH_BYTES, file.bytes))
        found = data.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(data)
    return file.bytes


def _too_long(uri: str, what: str, offset: int) -> StokerError:
    return StokerError(
        f"{uri} byte {offset}: {what} is longer than {show_size(LARGEST_DOCUMENT)}, the most a "
        "document may have. Is it the format you named?"
    )
