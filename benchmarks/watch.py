"""A command run and watched from outside: seconds, CPU seconds and memory of all its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from shards.errors import StokerError

# A point of a curve; a long run then has some thousands.
_POINT_S = 1.0
# What a process did between the last look and its end is missed; looks are cheap.
_LOOK_S = 0.1
_TAIL = 400


@dataclass(frozen=True)
class Seen:
    """A process at one look: seconds since the command was started, its memory in bytes."""

    seconds: float
    pid: int
    name: str
    rss: int


@dataclass(frozen=True)
class Watched:
    """What a command took.

    Attributes:
        printed: all it wrote to stdout.
        began: when it was started, by `time.monotonic`, one clock for the processes of a machine.
        seconds: until it ended.
        cpu_s: user and system, of it and all it started.
        peak_rss: bytes, the largest that any of the processes was seen with.
        curve: every process about once a second.
    """

    printed: str
    began: float
    seconds: float
    cpu_s: float
    peak_rss: int
    curve: tuple[Seen, ...] = ()

    def result(self) -> dict[str, Any]:
        """The JSON object in the last line it printed.

        Raises:
            StokerError: there is none.
        """
        try:
            return dict(json.loads(self.printed.strip().splitlines()[-1]))
        except (IndexError, ValueError):
            tail = self.printed[-_TAIL:]
            raise StokerError(f"no result in the last line printed: {tail!r}") from None


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Runs a command to its end.

    Raises:
        StokerError: it failed; the end of its words is told.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            list(command), stdout=out, stderr=errors, env={**os.environ, **(environment or {})}
        )
        look = _Look(process.pid)
        code = process.wait()
        seconds = time.monotonic() - began
        look.stop()
        said, complained = (_read(file) for file in (out, errors))
    name = next((word for word in command if word.endswith(".py")), command[0])
    if code:
        tail = " ".join((complained or said)[-_TAIL:].split())
        raise StokerError(f"{name} ended with exit code {code}: {tail}")
    return Watched(said, began, seconds, look.cpu_s, look.peak_rss, tuple(look.curve))


def result_line(**result: object) -> None:
    """Prints what `watch` reads."""
    print(json.dumps(result))
    sys.stdout.flush()


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


class _Look:
    """Looks at a process and its descendants again and again, orphans included."""

    def __init__(self, pid: int) -> None:
        self.peak_rss = 0
        self.curve: list[Seen] = []
        self._began = self._point = time.monotonic()
        self._cpu: dict[psutil.Process, float] = {}
        self._root = psutil.Process(pid)
        self._known = {self._root}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._once()

    def _once(self) -> None:
        with suppress(psutil.Error):
            self._known.update(self._root.children(recursive=True))
        now = time.monotonic()
        point = now >= self._point
        if point:
            self._point = now + _POINT_S
        for process in list(self._known):
            try:
                with process.oneshot():
                    times, rss, name = (
                        process.cpu_times(),
                        process.memory_info().rss,
                        process.name(),
                    )
            except psutil.Error:
                self._known.discard(process)
                continue
            self._cpu[process] = times.user + times.system
            self.peak_rss = max(self.peak_rss, rss)
            if point:
                self.curve.append(Seen(now - self._began, process.pid, name, rss))
