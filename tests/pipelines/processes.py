"""Processes of their own for the tests that start, stop and kill Ray: nobody else's are touched."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
def temporary_home() -> Iterator[Path]:
    """A home for a Ray of its own, short for the sake of its sockets; at the end both are gone."""
    folder = Path(tempfile.mkdtemp(prefix="stoker-", dir="/tmp"))
    try:
        yield folder
    finally:
        kill_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Head:
    """A head node with token authentication; `home` has its token."""

    home: Path
    address: str
    dashboard: str


def start_head(home: Path, cpus: int = 2) -> Head:
    """Starts a cluster of one node; `temporary_home` ends it."""
    env = environment(home)
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    port = free_port()
    command = [RAY, "start", "--head", "--port=0", f"--num-cpus={cpus}", "--disable-usage-stats"]
    # Another Ray here may hold the agent's default port; without its agent a head takes no jobs.
    command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
    started = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert "authentication is enabled" in started.stdout + started.stderr
    address = (home / "ray" / "ray_current_cluster").read_text().strip()
    return Head(home, address, f"http://127.0.0.1:{port}")


def start_node(head: Head, cpus: int = 1) -> psutil.Process:
    """Adds a node, on this machine, to a cluster; returns its raylet."""
    before = {raylet.pid for raylet in raylets(head.home)}
    command = [RAY, "start", f"--address={head.address}", f"--num-cpus={cpus}"]
    command += ["--disable-usage-stats", f"--dashboard-agent-listen-port={free_port()}"]
    env = environment(head.home, RAY_AUTH_MODE="token")
    subprocess.run(command, env=env, check=True, capture_output=True)
    [new] = [raylet for raylet in raylets(head.home) if raylet.pid not in before]
    return new


def raylets(home: Path) -> list[psutil.Process]:
    """The raylets of the Rays below a home."""
    return [one for one in processes_below(home) if one.name() == "raylet"]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    for one in processes_below(folder):
        with suppress(psutil.NoSuchProcess):
            one.kill()


def processes_below(folder: Path) -> list[psutil.Process]:
    """Every other process whose RAY_TMPDIR is `folder`."""
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = candidate.environ().get("RAY_TMPDIR") == str(folder)
            if ours and candidate.pid != os.getpid():
                found.append(candidate)
    return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for a condition; fails with `what` when it doesn't come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)
