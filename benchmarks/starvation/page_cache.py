"""How much of the data lay in memory before anything was measured: a disk that nobody reads from
can't be slow.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


def cached_share(folder: Path) -> float | None:
    """The part, 0 to 1, of a local folder's pages that the kernel keeps in memory; reads none.

    None where that can't be told: an empty folder, no Linux, files of somebody else's.
    """
    cached = pages = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        found = _resident(path)
        if found is None:
            return None
        cached, pages = cached + int(found.sum()), pages + len(found)
    return cached / pages if pages else None


def _resident(path: Path) -> np.ndarray | None:
    """bool [pages] of a file that isn't empty."""
    # The kernel tells everybody else that all is there (mincore(2), since Linux 5.2).
    if not hasattr(os, "geteuid") or not os.access(path, os.W_OK):
        return None
    data = np.memmap(path, mode="r", dtype=np.uint8)
    state = np.zeros(-(-len(data) // mmap.PAGESIZE), dtype=np.uint8)
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (OSError, AttributeError):
        return None
    address, length = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(len(data))
    if mincore(address, length, ctypes.c_void_p(state.ctypes.data)):
        return None
    resident: np.ndarray = (state & 1).astype(bool)
    return resident
