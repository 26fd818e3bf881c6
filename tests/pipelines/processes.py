"""Processes of their own for the tests that start, stop and kill Ray: nobody else's are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = str(REPOSITORY / "pipelines" / "tokenize.py")
RAY = str(Path(sys.executable).with_name("ray"))


def environment(home: Path, **more: str) -> dict[str, str]:
    """Variables under which Ray knows no cluster, token or folder but those below `home`."""
    dropped = ("RAY_", "AWS_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    own = {"HOME": str(home), "RAY_TMPDIR": str(home), "PATH": path, "HF_HUB_OFFLINE": "1"}
    return {**kept, **own, **more}


@contextmanager
def process(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own; at the end it and all that it started are killed."""
    started = subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        kill_tree(started.pid)
        started.communicate()


def kill_tree(pid: int) -> None:
    """SIGKILL to a process, to its descendants and to what is left of its session."""
    victims: set[int] = {pid}
    with suppress(psutil.NoSuchProcess):
        victims |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    for other in psutil.pids():
        try:
            if os.getsid(other) == pid:
                victims.add(other)
        except (ProcessLookupError, PermissionError):
            continue
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def kill_below(folder: Path) -> None:
    """SIGKILL to every process whose RAY_TMPDIR is `folder`: a Ray that outlived its driver."""
    for candidate in psutil.process_iter():
        try:
            ours = candidate.environ().get("RAY_TMPDIR") == str(folder)
            if ours and candidate.pid != os.getpid():
                candidate.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for a condition; fails with `what` when it doesn't come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)
