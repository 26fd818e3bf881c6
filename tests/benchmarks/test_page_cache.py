"""What the report says of data that lay in memory before the run."""

import os
import re
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.starvation.page_cache import cached_share

MIB = 1 << 20


def written(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def forgotten(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_it_tells_what_the_kernel_keeps_and_asking_changes_nothing(tmp_path):
    files = [written(tmp_path / name, MIB) for name in ("a", "b", "c", "d")]
    for path in files:
        path.read_bytes()
    assert cached_share(tmp_path) == 1.0
    forgotten(files[0])
    forgotten(files[1])
    for _ in range(2):
        assert cached_share(tmp_path) == 0.5


def test_of_a_folder_without_bytes_nothing_is_known(tmp_path):
    (tmp_path / "empty").touch()
    assert cached_share(tmp_path) is None
    assert cached_share(tmp_path / "nowhere") is None


def test_a_report_names_the_commit_of_its_code():
    commit = environment().get("commit", "")
    checkout = (Path(__file__).parents[2] / ".git").exists()
    assert bool(re.fullmatch("[0-9a-f]{7,}[+]?", commit)) == checkout
