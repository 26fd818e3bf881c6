"""A loader's CPU time is that of the processes it started, ended ones too, and of no server."""

import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from benchmarks.starvation.loop.cpu_time import CpuTime, Look

WORK_S = 0.3
# Works for so long by its own clock of CPU time, says so, and ends with its stdin.
WORKS = f"""
import sys, time
while time.process_time() < {WORK_S}: pass
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def working():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WORKS], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_process_did_counts_while_it_lives_and_when_it_has_ended(ended):
    used = CpuTime()
    before = used.seconds()
    with working():
        seen = used.seconds()
    if ended:
        seen = used.seconds()
    # The kernel counts in hundredths of a second.
    assert seen - before >= WORK_S - 0.05


def test_a_look_beside_the_loop_sees_what_there_was_when_it_began():
    used = CpuTime()
    before = used.seconds()
    with working():
        look = Look(used)
        assert look.seconds() - before >= WORK_S - 0.05
    assert "cpu-time" not in {thread.name for thread in threading.enumerate()}


def test_a_server_that_was_there_before_does_not_count():
    with working():
        everything = CpuTime()
        everything._others.clear()
        used = CpuTime()
        assert everything.seconds() - used.seconds() >= WORK_S - 0.05
