"""Memory of workers over long jobs stays bounded, and the bench that shows it can see it grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.memory import Curve, bars, main, novel_words, write_page

GROWTH = 900 << 20

ENGINE = """
import sys
import pipelines.fast as fast
from benchmarks.memory import main
if "never rebuild" in sys.argv:
    fast._CACHE_BYTES = fast._REBUILD_AFTER_BYTES = 1 << 60
sys.exit(main(["--engine", "--text-bytes", sys.argv[1], "--tokenizer", sys.argv[2],
               "--output", sys.argv[3]]))
"""


def growth(repository: Path, folder: Path, tokenizer: Path, size: str, *how: str) -> int:
    """Bytes by which a process grew that encoded `size` bytes of words that are all new."""
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, size, str(tokenizer), str(folder), *how],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    curve = json.loads((folder / "memory.json").read_text())
    rss: list[int] = curve["rss"]
    return max(rss) - rss[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_gigabyte_of_new_words_grows_a_worker_by_less_than_900_mib(
    repository: Path, shared: Path, tmp_path: Path
) -> None:
    tokenizer = shared / "data" / "tokenizers" / "gpt2"
    assert growth(repository, tmp_path, tokenizer, "1G") < GROWTH


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_rebuilding_the_caches_a_quarter_of_it_would_grow_it_by_more(
    repository: Path, shared: Path, tmp_path: Path
) -> None:
    tokenizer = shared / "data" / "tokenizers" / "gpt2"
    assert growth(repository, tmp_path, tokenizer, "250M", "never rebuild") > GROWTH


def test_new_words_are_new_and_as_many_bytes_as_asked() -> None:
    (first,) = novel_words(4 << 20)
    words = set(" ".join(first.to_pylist()).split())
    assert sum(map(len, first.to_pylist())) == 4 << 20
    (other,) = novel_words(4 << 20, seed=1)
    long = {word for word in words if len(word) > 8}
    known = long & set(" ".join(other.to_pylist()).split())
    assert len(known) < len(long) / 1000


@given(st.lists(st.integers(0, 10**9), max_size=200))
def test_bars_are_a_line_of_at_most_its_width(values: list[int]) -> None:
    line = bars(values, 60)
    assert len(line) == min(60, len(values))
    if values and max(values) > 0:
        assert "█" in line


def test_a_curve_that_grows_is_told_from_a_flat_one() -> None:
    flat = Curve("flat", "seconds", tuple(map(float, range(100))), (100, *[900] * 99))
    grows = Curve("grows", "seconds", tuple(map(float, range(100))), tuple(range(100, 200)))
    assert flat.growth() == pytest.approx(1.0)
    assert grows.growth() > 1.3
    assert "last quarter / second quarter 1.00" in str(flat)


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", Curve("<b>workers</b>", "seconds", (0.0, 1.0), (1, 2)))
    page = (tmp_path / "a.html").read_text()
    assert 'src="http' not in page
    assert "Plotly.newPlot" in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_draws_the_workers_of_a_real_job(made, tmp_path: Path) -> None:
    arguments = ["--input", *made.files, "--tokenizer", made.tokenizer]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "memory.json").read_text())
    assert content["peak"] > 100 << 20
    assert content["unit"] == "seconds"
    assert (tmp_path / "memory.html").exists()
