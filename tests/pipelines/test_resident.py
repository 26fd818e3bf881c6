"""The memory that is reported is the program's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from pipelines.resident import peak_bytes, resident_bytes


def test_the_peak_is_not_that_of_the_process_that_started_this_one(repository) -> None:
    held = np.ones(400 << 20, np.uint8)
    assert resident_bytes() > held.nbytes
    assert peak_bytes() > held.nbytes
    code = "from pipelines.resident import peak_bytes; print(peak_bytes())"
    own = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert 0 < int(own.stdout) < 200 << 20
