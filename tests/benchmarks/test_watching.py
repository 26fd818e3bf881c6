"""Garbage collections and pages that had to be read are seen, each at its step."""

from __future__ import annotations

import gc
import mmap
import os
import tempfile
import threading
from pathlib import Path

import numpy as np

from benchmarks.starvation.watching import Watch


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
