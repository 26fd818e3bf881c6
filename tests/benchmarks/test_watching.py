"""Garbage collections and pages that had to be read are seen, each at its step."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import tempfile
import threading
from pathlib import Path

import numpy as np

from benchmarks.starvation.loop.watching import PRESSURE_FILES, Watch

# Of <sys/mman.h>, Linux 5.4; Python has no name for it.
MADV_PAGEOUT = 21


def test_collections_of_any_thread_are_spans():
    watch = Watch()
    watch.start()
    try:
        other = threading.Thread(target=gc.collect)
        other.start()
        other.join()
        gc.collect()
    finally:
        watch.stop()
    gc.collect()
    assert len(watch.spans) >= 2
    assert set(watch.spans["cause"]) == {"gc"}
    assert (watch.spans["stop"] > watch.spans["start"]).all()
    seen = len(watch.spans)
    gc.collect()
    assert len(watch.spans) == seen


def test_pages_that_were_read_from_disk_are_counted_at_their_step(repository: Path) -> None:
    watch = Watch(every_ns=0)
    # On the repository's disk: where temporary files live in memory, none is ever read.
    with tempfile.TemporaryFile(dir=repository) as file:
        file.write(bytes(64 * mmap.PAGESIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            pages.madvise(mmap.MADV_RANDOM)
            watch.start()
            watch.step(0)
            sum(pages[:: mmap.PAGESIZE])
            watch.step(1)
            watch.stop()
    rows = watch.pressure
    assert rows["step"][-1] == 1
    assert rows["faults"][-1] > 0
    assert (rows["stalled"] >= 0).all()
    assert np.all(rows["retries"] == 0)


def test_pages_put_out_of_memory_cost_what_the_kernel_says_and_no_more(repository: Path) -> None:
    watch = Watch(every_ns=0)
    with tempfile.TemporaryFile(dir=repository) as file:
        file.write(os.urandom(256 * mmap.PAGESIZE))
        file.flush()
        os.fsync(file.fileno())
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            pages.madvise(mmap.MADV_RANDOM)
            # Only pages that were in use, and have to come back, count as memory being short.
            for _ in range(3):
                sum(pages[:: mmap.PAGESIZE])
            before, told, paged = stalled_ns(), 0, []
            watch.start()
            for step in range(100):
                pages.madvise(MADV_PAGEOUT)
                since, faults = stalled_ns(), major_faults()
                sum(pages[:: mmap.PAGESIZE])
                # The kernel may keep pages that it is still busy with: then nothing was read.
                if major_faults() > faults:
                    told += stalled_ns() - since
                    paged.append(step)
                watch.step(step)
                if len(paged) == 4:
                    break
            watch.stop()
    rows = watch.pressure
    assert len(paged) == 4
    assert set(paged) <= set(rows["step"].tolist())
    assert told <= rows["stalled"].sum() <= stalled_ns() - before


def major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def stalled_ns() -> int:
    """What the kernel has counted so far, 0 where it doesn't."""
    for path in PRESSURE_FILES:
        if path.exists():
            return 1000 * int(path.read_text().splitlines()[0].rpartition("=")[2])
    return 0
