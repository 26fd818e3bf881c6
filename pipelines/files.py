"""The bytes of an input, from the version that the plan saw; a file that changed is an error."""

from __future__ import annotations

import bz2
import io
import os
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipelines.plan import Slice
from shards.errors import CutShort, MissingObject, StokerError
from shards.s3 import get_object
from shards.store import local_etag

READ_BYTES = 8 << 20
# Small, since what follows the end of a stream is copied for the next one.
_BZ2_INPUT_BYTES = 64 << 10


class InputFile(io.RawIOBase):
    """Read-only, seekable; `read_at` and the io protocol give the planned version or an error."""

    def __init__(self, piece: Slice) -> None:
        super().__init__()
        self.uri, self.bytes, self._etag = piece.uri, piece.size, piece.etag
        self._position = 0

    @abstractmethod
    def read_at(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop); all of them.

        Raises:
            StokerError: unreadable, changed since the plan, or shorter than planned.
        """

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes [start, stop) in order, `READ_BYTES` at a time."""
        for at in range(start, stop, READ_BYTES):
            yield self.read_at(at, min(at + READ_BYTES, stop))

    def changed(self) -> StokerError:
        return StokerError(
            f"{self.uri} changed since the plan was made: start the job again to plan with what is "
            "there now"
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.bytes)[whence]
        return self._position

    def size(self) -> int:
        """What pyarrow asks a Python file for."""
        return self.bytes

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.bytes if size is None or size < 0 else self._position + size
        data = self.read_at(self._position, max(self._position, min(wanted, self.bytes)))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class LocalFile(InputFile):
    """A file of this machine: compared with the plan on the way in and on the way out."""

    def __init__(self, piece: Slice) -> None:
        super().__init__(piece)
        try:
            self._file = open(piece.uri, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise StokerError(f"{piece.uri} can't be read: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        try:
            now = local_etag(os.stat(self.uri))
        except OSError:
            raise self.changed() from None
        if now != self._etag:
            raise self.changed()

    def read_at(self, start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        while start < stop:
            try:
                part = os.pread(self._file.fileno(), stop - start, start)
            except OSError as error:
                raise StokerError(f"{self.uri} byte {start}: {error.strerror}") from error
            if not part:
                raise self.changed()
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class S3File(InputFile):
    """An S3 object: each ranged GET asks for the planned etag and none other."""

    def __init__(self, piece: Slice) -> None:
        super().__init__(piece)
        self._bucket, _, self._key = piece.uri.removeprefix("s3://").partition("/")

    def read_at(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        try:
            data, etag = get_object(self._bucket, self._key, start, stop)
        except (MissingObject, CutShort):
            raise self.changed() from None
        if etag != self._etag.strip('"'):
            raise self.changed()
        return data

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """As the base class, one request ahead, so that reading and tokenizing overlap."""
        borders = [*range(start, stop, READ_BYTES), stop]
        with ThreadPoolExecutor(1, "read-ahead") as pool:
            ahead: list[Future[bytes]] = []
            for a, b in pairwise(borders):
                ahead.append(pool.submit(self.read_at, a, b))
                if len(ahead) > 1:
                    yield ahead.pop(0).result()
            for last in ahead:
                yield last.result()


@contextmanager
def open_input(piece: Slice) -> Iterator[InputFile]:
    """The file of a slice; leaving without an error means that it did not change meanwhile."""
    file = S3File(piece) if piece.uri.startswith("s3://") else LocalFile(piece)
    with closing(file):
        yield file
        if isinstance(file, LocalFile):
            file.check()


def decompressed(file: InputFile, compression: str) -> Iterator[tuple[int, bytes]]:
    """(compressed bytes read so far, some MiB of content), in order, of a whole compressed file.

    Streams: what is held doesn't depend on what the file unfolds to.

    Raises:
        StokerError: the file is truncated or damaged; what it lost can't be known.
    """
    if not file.bytes:
        raise StokerError(f"{file.uri} is no {compression} file: it is empty. Restore it first")
    counted = _Counted(file)
    try:
        for data in _unfold_bz2(counted) if compression == "bz2" else _unfold(counted, compression):
            yield counted.count, data
    except (OSError, pa.ArrowException) as error:
        raise StokerError(
            f"{file.uri} is damaged, or no {compression} file ({error}): what it lost is unknown, "
            "so the job ends. Restore it, or leave it out"
        ) from error


def _unfold(counted: _Counted, compression: str) -> Iterator[bytes]:
    stream = pa.CompressedInputStream(pa.PythonFile(counted, mode="r"), compression)
    while data := stream.read(READ_BYTES):
        yield data


def _unfold_bz2(counted: _Counted) -> Iterator[bytes]:
    """Streams one after the other, as pbzip2 writes them; Arrow's decoder fails on an empty one."""
    decoder: bz2.BZ2Decompressor | None = None
    parts, held = list[bytes](), 0
    while True:
        more = decoder.unused_data if decoder else b""
        if not more and (decoder is None or decoder.eof or decoder.needs_input):
            more = counted.read(_BZ2_INPUT_BYTES)
            if not more:
                break
        if decoder is None or decoder.eof:
            decoder = bz2.BZ2Decompressor()
        parts.append(decoder.decompress(more, READ_BYTES))
        held += len(parts[-1])
        if held >= READ_BYTES:
            yield b"".join(parts)
            parts, held = [], 0
    if decoder is not None and not decoder.eof:
        raise OSError("it ends too early")
    if held:
        yield b"".join(parts)


class _Counted(io.RawIOBase):
    """The file in order, by `chunks`; pyarrow reads compressed bytes 64 KiB at a time."""

    def __init__(self, file: InputFile) -> None:
        super().__init__()
        self._chunks = file.chunks(0, file.bytes)
        self._rest = memoryview(b"")
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        cut = len(self._rest) if size is None or size < 0 else size
        data, self._rest = bytes(self._rest[:cut]), self._rest[cut:]
        self.count += len(data)
        return data
