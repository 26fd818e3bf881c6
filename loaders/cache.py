"""Blocks kept on a local disk: bounded, shared by the processes of a machine, never believed.

A block is a file of exactly the bytes that were read, named by a hash of the dataset's id, the
object's key and the range. Only verified bytes are written, and what is read back is verified like
an answer of the store (`fetch.py`): a torn or rotten file costs a read, never a wrong batch.

    cache_dir/stoker-cache-v1/
      gate              locked: shared while a block is written, exclusively during an eviction
      size              bytes of all blocks, those being written included; locked to change it
      blocks/3f/3f...   a block; `.part` while it is being written

The locks end with the process that holds them, so nothing is left to be cleaned by hand. Whoever
finds the gate taken doesn't wait: the block just isn't kept. Nobody writes during an eviction, so
its count of the folder is exact, and a `.part` that it finds is what a killed process left.
"""

import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import numpy as np

from loaders.source import Read, Scratch
from loaders.stats import FetchCounts
from shards.errors import StoreError

_log = logging.getLogger(__name__)

_FORMAT = "stoker-cache-v1"
_PART = ".part"
# An eviction looks at every block, so it makes room for many more.
_KEPT_SHARE = 0.9
_PAUSE_SECONDS = 30.0  # after a full or broken disk
_ENTRY = np.dtype([("used", "<i8"), ("bytes", "<i8"), ("name", "S32")])


class DiskCache:
    """Ranges of a dataset's objects as files below `folder`, at most `limit` bytes of them.

    The least recently used are evicted, whichever process and dataset they came from. Threads and
    processes may share it. Trouble with the disk is logged once and counted, and never raised.

    Args:
        folder: made if it isn't there; only this user can read what is in it.
        limit: bytes, over all processes that use the folder.
        dataset: its id (`Dataset.id`): other content, other blocks.

    Raises:
        StoreError: the folder can't be made, or belongs to another user.
    """

    def __init__(self, folder: Path, limit: int, dataset: str, counts: FetchCounts) -> None:
        self._folder = folder / _FORMAT
        self._blocks = self._folder / "blocks"
        self._limit = limit
        self._dataset = dataset
        self._counts = counts
        self._resting_until = 0.0
        self._warned = False
        self._lock = Lock()
        try:
            self._make_folders()
            owner = self._folder.stat().st_uid
        except OSError as error:
            raise StoreError(f"cache_dir={str(folder)!r}: {error.strerror}") from error
        if owner != os.geteuid():
            raise StoreError(
                f"cache_dir={str(folder)!r}: {self._folder} belongs to user {owner}, who could put "
                "other bytes there. Choose a folder of your own"
            )

    def get(self, read: Read, scratch: Scratch) -> memoryview | None:
        """The bytes of `read`, in `scratch` and not yet verified; None: not here."""
        size = read.stop - read.start
        try:
            file = os.open(self._path(read), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if os.fstat(file).st_size != size:
                return None
            buffer, done = scratch.take(size), 0
            while done < size:
                count = os.preadv(file, [buffer[done:]], done)
                if not count:
                    return None
                done += count
            with suppress(OSError):
                _used_now(file)
        except OSError as error:
            self._rest(error)
            return None
        finally:
            os.close(file)
        self._counts.add(cache_hits=1, cache_bytes_read=size)
        return buffer

    def put(self, read: Read, data: memoryview | bytes) -> None:
        """Keeps verified bytes, if there is room or some can be made; doesn't wait for others."""
        if len(data) > self._limit or time.monotonic() < self._resting_until:
            return
        try:
            for _ in range(2):
                with self._gate(fcntl.LOCK_SH) as entered:
                    if not entered or self._keep(self._path(read), data):
                        return
                self._evict(len(data))
        except FileNotFoundError:
            # Somebody deleted the folder. The next block finds a new one.
            with suppress(OSError):
                self._make_folders()
        except OSError as error:
            self._rest(error)

    def drop(self, read: Read) -> None:
        """Forgets bytes that turned out to be wrong."""
        with suppress(OSError):
            os.unlink(self._path(read))

    def _path(self, read: Read) -> str:
        text = f"{self._dataset} {read.key} {read.start}-{read.stop}"
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return f"{self._blocks}/{name[:2]}/{name}"

    def _make_folders(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._blocks.mkdir(exist_ok=True, mode=0o700)
        if not (self._folder / "size").exists():
            self._evict(0)  # which counts what is there

    def _keep(self, path: str, data: memoryview | bytes) -> bool:
        """Within the gate: writes a block. False: there is no room for it."""
        part = _created(path + _PART)
        if part is None:
            return True  # another process is writing the very same block
        try:
            if os.path.exists(path):
                os.unlink(path + _PART)
                return True
            if not self._reserve(len(data)):
                os.unlink(path + _PART)
                return False
            try:
                _write(part, data)
                _used_now(part)
                os.rename(path + _PART, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(path + _PART)
                self._reserve(-len(data))
                raise
        finally:
            os.close(part)
        self._counts.add(cache_bytes_written=len(data))
        return True

    def _reserve(self, size: int) -> bool:
        """Adds `size` to the bytes in use. False: too many, or unknown how many there are."""
        with _locked(self._folder / "size", fcntl.LOCK_EX) as file:
            used = _number(file)
            if used is None or used + size > self._limit:
                return False
            _set_number(file, max(0, used + size))
        return True

    @contextmanager
    def _gate(self, kind: int) -> Iterator[bool]:
        """False: held by somebody who excludes this."""
        try:
            with _locked(self._folder / "gate", kind | fcntl.LOCK_NB):
                yield True
        except BlockingIOError:
            yield False

    def _evict(self, room: int) -> None:
        """Counts the blocks and deletes the least recently used, so that there is `room`."""
        with self._gate(fcntl.LOCK_EX) as alone:
            if not alone:
                return
            blocks = np.fromiter(self._entries(), _ENTRY)
            used = int(blocks["bytes"].sum())
            if used + room > self._limit:
                enough = max(0, int(self._limit * _KEPT_SHARE) - room)
                for block in blocks[np.argsort(blocks["used"])]:
                    if used <= enough:
                        break
                    name = block["name"].decode()
                    with suppress(FileNotFoundError):
                        os.unlink(self._blocks / name[:2] / name)
                    used -= int(block["bytes"])
            with _locked(self._folder / "size", fcntl.LOCK_EX) as file:
                _set_number(file, used)

    def _entries(self) -> Iterator[tuple[int, int, bytes]]:
        """All blocks, when nobody else is writing: what a killed process left is deleted."""
        for folder in os.scandir(self._blocks):
            for file in os.scandir(folder.path):
                if file.name.endswith(_PART):
                    os.unlink(file.path)
                    continue
                with suppress(FileNotFoundError):  # another process found it rotten
                    about = file.stat(follow_symlinks=False)
                    yield about.st_mtime_ns, about.st_size, file.name.encode()

    def _rest(self, error: OSError) -> None:
        """The disk is full or broken: no more writes for a while, and one line in the log."""
        self._counts.add(cache_failures=1)
        with self._lock:
            self._resting_until = time.monotonic() + _PAUSE_SECONDS
            warn, self._warned = not self._warned, True
        if warn:
            full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            _log.warning(
                "cache_dir %s: %s%s. What can't be kept there is read from the store again",
                self._folder.parent,
                error.strerror,
                full,
            )


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """An open file under an advisory lock. Raises BlockingIOError, if `kind` has LOCK_NB."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, kind)
        try:
            yield file
        finally:
            # Explicitly: a child forked in between holds the same lock until it is taken off.
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _number(file: int) -> int | None:
    text = os.pread(file, 32, 0)
    return int(text) if text.strip().isdigit() else None


def _set_number(file: int, number: int) -> None:
    os.pwrite(file, b"%020d\n" % number, 0)


def _created(path: str) -> int | None:
    """A new file; None: there is one already."""
    for _ in range(2):
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            return None
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), 0o700)
    return None


def _used_now(file: int) -> None:
    """The kernel's own times are milliseconds coarse."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def _write(file: int, data: memoryview | bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
