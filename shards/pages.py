"""Memory in whole pages that is used again: for shards, which are large and of much the same size.

Fresh pages cost more than filling them, and what begins at a page can go to a disk without a copy.
"""

from __future__ import annotations

import mmap
import threading

import pyarrow as pa

HUGE_PAGE = 2 << 20


class Pages:
    """Buffers that were given back, to be taken again; of one process, for any of its threads."""

    def __init__(self) -> None:
        self._free: list[pa.Buffer] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> pa.Buffer:
        """A writable buffer of at least `size` bytes that begins at a page; what it holds is old.

        It may be kept, or dropped like any other buffer.
        """
        with self._lock:
            for place, buffer in enumerate(self._free):
                if buffer.size >= size:
                    return self._free.pop(place)
            # All too small: one makes room, so that there are never more than are used at once.
            del self._free[:1]
        # Private: shared with a forked child, both would write to it.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, -(-size // HUGE_PAGE) * HUGE_PAGE, flags=flags)
        memory.madvise(mmap.MADV_HUGEPAGE)
        return pa.py_buffer(memory)

    def give(self, buffer: pa.Buffer) -> None:
        """Takes back what `take` gave, or a slice of it; nobody may look at it any more."""
        with self._lock:
            self._free.append(buffer.parent or buffer)
