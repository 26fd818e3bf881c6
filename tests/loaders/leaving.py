"""How long a child process waits between the end of its main program and its own end.

On a busy machine a process that ends takes as long as it gets no CPU, and torch's takes a while to
be taken down. What a loader must not do is wait: so the time in which the main thread ran, or could
have run and had no CPU (Linux counts both), is taken off.
"""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A promise of docs/loading-s3.md.
MOST_SECONDS = 2.0
# To be the last line of a main program.
MARK = 'print("left", time.monotonic(), *open("/proc/thread-self/schedstat").read().split())'


class Leaving:
    """A child that has been started."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def says(self) -> str:
        """Its next line."""
        assert self._child.stdout is not None
        return self._child.stdout.readline().rstrip("\n")

    def go_on(self) -> None:
        """Answers its `input()`."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def waited(self) -> float:
        """Seconds, once it has ended; it must have ended well and said nothing wrong."""
        now = _ended(self._child.pid)
        # It is a zombie until it is waited for, and its account still there.
        ran, queued = _account(Path(f"/proc/{self._child.pid}/schedstat").read_text().split())
        output, errors = self._child.communicate(timeout=60)
        assert self._child.returncode == 0, errors
        assert not errors.strip()
        _, left, *account = output.splitlines()[-1].split()
        ran_before, queued_before = _account(account)
        return now - float(left) - (ran - ran_before) - (queued - queued_before)


def _account(fields: list[str]) -> tuple[float, float]:
    """Seconds that a thread ran, and that it waited for a CPU."""
    return int(fields[0]) / 1e9, int(fields[1]) / 1e9


def _ended(pid: int, seconds: float = 60.0) -> float:
    """When the process ended, which is left to be waited for."""
    until = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        assert time.monotonic() < until, "it doesn't end"
        time.sleep(0.005)
    return time.monotonic()


@contextmanager
def leaving(code: str) -> Iterator[Leaving]:
    """Runs `code`, which has `import time` and `MARK` as its last line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            yield Leaving(child)
        finally:
            child.kill()
