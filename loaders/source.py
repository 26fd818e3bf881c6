"""Ranged reads of a dataset's objects: files by `preadv`, S3 by s3torchconnector.

A source only reads. Retries, deadlines and checksums belong to `fetch.py`.
"""

import errno
import os
from collections import OrderedDict
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Protocol

from shards.errors import CorruptShard, MissingObject, StoreError


@dataclass(frozen=True)
class Read:
    """Bytes `start` to `stop` of the object `key` (relative to the dataset's uri).

    Attributes:
        at_most: the object may end before `stop`; then there are fewer.
    """

    key: str
    start: int
    stop: int
    at_most: bool = False


class TransientError(Exception):
    """A read that may well succeed when it is tried again; the message says what happened.

    Attributes:
        throttled: the store asked for fewer requests.
    """

    def __init__(self, message: str, *, throttled: bool = False) -> None:
        super().__init__(message)
        self.throttled = throttled


class Scratch:
    """A read buffer that belongs to one thread and is used again for every read."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def take(self, size: int) -> memoryview:
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        return memoryview(self._bytes)[:size]


class Source(Protocol):
    """Where bytes come from. Used by many threads at once."""

    uri: str
    threads: int  # how many reads at once are worth while

    def read(self, read: Read, scratch: Scratch) -> memoryview:
        """Exactly the bytes asked for, perhaps in `scratch` (valid until its next use); fewer
        only where the read says `at_most`.

        Raises:
            TransientError: worth another try.
            CorruptShard: the object ends before `read.stop`.
            StoreError: anything that another try would not cure.
        """
        ...


# What a network file system (NFS, Lustre) says when its server is away or has forgotten us. EIO is
# also a disk's that breaks: then it is said after as many tries as a store that is gone gets.
_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}


class PathSource:
    """Files under a folder. A file cut short is an exception, never the SIGBUS of a memory map."""

    threads = 4
    # The one used longest ago is dropped; it closes when no other thread is reading it any more.
    _OPEN_FILES = 64

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        self._folder = folder
        self._files: OrderedDict[str, FileIO] = OrderedDict()
        self._lock = Lock()

    def read(self, read: Read, scratch: Scratch) -> memoryview:
        buffer = scratch.take(read.stop - read.start)
        file, done = None, 0
        try:
            file = self._open(read.key)
            while done < len(buffer):
                count = os.preadv(file.fileno(), [buffer[done:]], read.start + done)
                if count == 0 and read.at_most:
                    return buffer[:done]
                if count == 0:
                    self._forget(read.key, file)
                    raise short_object(self.uri, read, done)
                done += count
        except FileNotFoundError as error:
            raise MissingObject(f"{self.uri}/{read.key}: no such file") from error
        except OSError as error:
            self._forget(read.key, file)
            if error.errno in _PASSING:
                raise TransientError(
                    f"{error.strerror} ({errno.errorcode[error.errno]})"
                ) from error
            raise StoreError(
                f"{self.uri}/{read.key}: {error.strerror} (bytes {read.start}-{read.stop})"
            ) from error
        return buffer

    def _forget(self, key: str, file: FileIO | None) -> None:
        """The next read opens the file again: what it was may be gone, what it is be whole."""
        with self._lock:
            if file is not None and self._files.get(key) is file:
                del self._files[key]

    def _open(self, key: str) -> FileIO:
        with self._lock:
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = FileIO(self._folder / key)
                if len(self._files) > self._OPEN_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(key)
            return file


def short_object(uri: str, read: Read, got: int) -> CorruptShard:
    """The error for an object that ends `got` bytes into what was asked for."""
    return CorruptShard(
        f"{uri}/{read.key} is cut short: it ends at byte {read.start + got}, "
        f"bytes {read.start}-{read.stop} were asked for. Restore it, or tokenize it again."
    )


def open_source(uri: str) -> Source:
    """The source for a dataset at `uri` as its store spells it: `s3://bucket/prefix` or a path."""
    if uri.startswith("s3://"):
        # Paths need no S3 client, and its import takes a while.
        from loaders.source_s3 import S3Source

        return S3Source(uri)
    return PathSource(Path(uri.removeprefix("file://")))
