"""How much memory this process holds, and the most that it ever held."""

from __future__ import annotations

import os
import resource


def resident_bytes() -> int:
    """Memory of this process; 0 where /proc isn't Linux's."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def peak_bytes() -> int:
    """The most memory this program ever held.

    From Linux's VmHWM, which begins anew with each program: what getrusage tells is never less than
    what the process that started this one held.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            line = next(line for line in file if line.startswith(b"VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
