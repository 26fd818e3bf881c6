"""The scale bench does at 20,000 units what it does at a million, and its table is honest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale import AIM_BYTES, Measured, Size, main, plan_of, report
from shards.dataset import open_dataset
from shards.errors import StokerError

UNITS = 20_000

# A fast test bounds the memory of a commit of as many: tests/shards/test_ledger.py.
in_processes = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Size, list[Measured]]:
    size = Size(UNITS, 2, str(tmp_path_factory.mktemp("scale")))
    return size, scale.simulate(size)


@in_processes
def test_every_step_runs_in_memory_that_a_million_leave_room_for(
    made: tuple[Size, list[Measured]],
) -> None:
    measured = made[1]
    assert [one.step for one in measured] == list(scale.STEPS)
    # What Python and the libraries take, and 4 KB a unit: a million would stay below 4 GiB.
    assert all(one.peak_bytes < (200 << 20) + UNITS * 4096 for one in measured), measured


@in_processes
def test_what_is_committed_is_a_dataset_of_all_units(made: tuple[Size, list[Measured]]) -> None:
    dataset = open_dataset(made[0].output)
    assert dataset.index.unit.tolist() == list(range(UNITS))
    assert dataset.manifest.tables.cells.rows == 2 * UNITS


@in_processes
def test_a_step_that_did_not_do_its_work_is_an_error(made: tuple[Size, list[Measured]]) -> None:
    with pytest.raises(StokerError, match=f"{UNITS} units were planned, not {UNITS + 1}"):
        plan_of(replace(made[0], units=UNITS + 1))


def test_the_table_names_the_aims_and_says_when_one_is_missed() -> None:
    size = Size(10, 1, "x")
    good = Measured("a step", 1.0, 0.5, 1 << 20)
    text = report(size, [good])
    assert "synthetic" in text
    assert "120 s" in text
    assert "4 GiB" in text
    assert text.endswith("\nwithin the aims")
    for bad in (Measured("s", 121.0, 1.0, 1), Measured("s", 1.0, 1.0, AIM_BYTES + 1)):
        assert report(size, [good, bad]).endswith("NOT within the aims")
    hours = Measured("take and fold receipts, over the whole job", 9999.0, 1.0, 1)
    assert report(size, [good, hours]).endswith("\nwithin the aims")


@in_processes
def test_the_command_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--units", "300", "--cells", "1", "--folder", str(tmp_path)]) == 0
    assert "300 units of 1 cells" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
