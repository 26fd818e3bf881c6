"""Positive controls: a fault is put in, the report must name it; a clean run names nothing."""

from dataclasses import replace

import pytest

from benchmarks.starvation.cards.accelerator import Node
from benchmarks.starvation.checks.faults import FAULTS, Fault, Material, Side, card, resident
from benchmarks.starvation.checks.selftest import control, row, self_test
from benchmarks.starvation.command import main
from shards.errors import StokerError

STEPS = 60


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return Material(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAULTS if name != "clean"])
def test_the_report_names_the_fault_with_four_fifths_of_the_added_idleness(name, material):
    fault = FAULTS[name](material)
    found = control(fault, STEPS)
    assert found.passed, row(found)
    assert found.expected == fault.expected
    assert max(found.causes_ms, key=lambda cause: found.causes_ms[cause]) == fault.expected


@pytest.mark.slow
def test_a_clean_run_names_nothing(material):
    found = control(FAULTS["clean"](material), STEPS)
    assert found.passed, row(found)
    assert found.expected is None


QUICK = Side(resident(), card(0.01))
SLOW = replace(QUICK, node=Node(h2d_bytes_per_s=32768 / 0.03))


def test_a_fault_that_is_called_something_else_is_not_passed():
    right = Fault("link", "PCIe", "a slow link", "h2d", QUICK, SLOW)
    assert control(right, 15).passed
    wrong = control(replace(right, expected="fetch"), 15)
    assert not wrong.passed
    assert wrong.named == 0
    assert "FAILED" in row(wrong)


def test_a_fault_that_adds_nothing_is_not_passed():
    assert not control(Fault("none", "PCIe", "nothing", "h2d", QUICK, QUICK), 15).passed


def test_a_run_that_is_not_clean_does_not_pass_as_one():
    found = control(Fault("clean", "nothing", "a slow link", None, SLOW, SLOW), 15)
    assert not found.passed
    assert found.named > 0.5


def test_a_fault_nobody_knows_is_an_error_that_lists_them():
    with pytest.raises(StokerError, match="no fault 'gremlins': there are clean, preprocessing"):
        self_test(["gremlins"])


def test_the_table_has_a_line_for_each_fault(capsys):
    found = self_test(["small batch"], steps=15)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("small batch")
    assert [each.name for each in found] == ["small batch"]


def test_the_command_without_data_needs_the_self_test():
    with pytest.raises(SystemExit) as stopped:
        main(["--output", "x"])
    assert stopped.value.code == 2
