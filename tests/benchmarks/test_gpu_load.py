"""The driver's own figures lie beside the report's, and where there are none it says why."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.starvation.cards.gpu_load import ACTIVE, BUSY, MEMORY, GpuLoad, sm_active

# Stands for the library: two samples that differ, then the same for ever.
LIBRARY = """
class NVMLError(Exception):
    pass
class Of:
    def __init__(self, **said):
        self.__dict__.update(said)
samples = iter([20, 80])
sampled = __import__("threading").Event()
shut = False
def nvmlInit():
    if broken:
        raise NVMLError("Driver Not Loaded")
def nvmlDeviceGetHandleByUUID(uuid):
    assert uuid == "GPU-1234"
    return "handle"
def nvmlDeviceGetIndex(handle):
    return 7
def nvmlDeviceGetUtilizationRates(handle):
    value = next(samples, None)
    if value is None:
        sampled.set()
    return Of(gpu=50 if value is None else value)
def nvmlDeviceGetMemoryInfo(handle):
    return Of(used=3 * 2**30)
def nvmlShutdown():
    global shut
    shut = True
"""
# Stands for the program, which prints a heading now and then.
PROGRAM = """#!/bin/sh
echo "$@" > "$(dirname "$0")/arguments"
echo "#Entity   SMACT"
echo "ID"
echo "GPU 7     N/A"
echo "GPU 7     0.250"
echo "GPU 7     0.750"
: > "$(dirname "$0")/said"
exec sleep 60
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the stand-in of pynvml importable; called with whether there is a driver."""

    def make(*, broken: bool = False) -> None:
        (tmp_path / "pynvml.py").write_text(f"broken = {broken}\n{LIBRARY}")
        monkeypatch.syspath_prepend(str(tmp_path))

    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    yield make
    sys.modules.pop("pynvml", None)


def test_busy_and_memory_are_means_of_what_was_sampled(library):
    library()
    with GpuLoad("GPU-1234") as load:
        import pynvml

        assert pynvml.sampled.wait(60)
    found = load.counters()
    assert found[BUSY] == pytest.approx(50)
    assert found[MEMORY] == 3
    assert ACTIVE not in found
    assert "any kernel ran" in load.facts["NVML"]
    assert "can hide a stall" in load.facts["NVML"]
    assert load.facts["DCGM"] == "not sampled: there is no dcgmi"
    assert pynvml.shut
    assert "gpu-load" not in {thread.name for thread in threading.enumerate()}


def test_dcgm_says_how_many_multiprocessors_had_work(library, tmp_path, monkeypatch):
    library()
    program = tmp_path / "dcgmi"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with GpuLoad("GPU-1234") as load:
        while len(load._active) < 2:
            assert load._program is not None
            assert load._program.poll() is None
            time.sleep(0.01)
    assert load.counters()[ACTIVE] == 50
    assert (tmp_path / "arguments").read_text().split() == [
        *("dmon", "-e", "1002", "-d", "100", "-i", "7")
    ]


def test_a_dcgmi_that_gives_nothing_is_said_and_no_figure(library, tmp_path, monkeypatch):
    library()
    program = tmp_path / "dcgmi"
    program.write_text("#!/bin/sh\necho no host engine\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with GpuLoad("GPU-1234") as load:
        pass
    assert ACTIVE not in load.counters()
    assert load.facts["DCGM"].startswith("not sampled: dcgmi gave no figures")


def test_without_a_driver_nothing_is_sampled_and_the_report_is_told_why(library):
    library(broken=True)
    with GpuLoad("GPU-1234") as load:
        pass
    assert load.counters() == {}
    assert load.facts == {"NVML": "not sampled: Driver Not Loaded"}


def test_without_the_library_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuLoad("GPU-1234") as load:
        pass
    assert load.counters() == {}
    assert load.facts == {"NVML": "not sampled: nvidia-ml-py is not installed (stoker[gpu])"}


@pytest.mark.parametrize(
    ("line", "value"),
    [("GPU 0     0.993", 0.993), ("GPU 0     N/A", None), ("#Entity   SMACT", None), ("", None)],
)
def test_a_line_of_dcgmi_is_a_share_or_nothing(line, value):
    assert sm_active(line) == value
