"""A contender's process, told what to do by lines: see `benchmarks/peers/load_contract.py`."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contest import SCRIPTS, VENVS
from pipelines.connect import ROOT
from shards.errors import StokerError

_PATIENCE_S = 300.0
_TAIL = 400


@dataclass(frozen=True)
class Entry:
    """One way to load that takes part.

    Attributes:
        script: `benchmarks/peers/load_<script>.py`.
        venv: of `make peers`, in which it runs; "": Stoker's own.
        options: for the script.
        data: name of the data it reads, which the entries of a script mostly share.
    """

    name: str
    script: str
    venv: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""

    @property
    def ours(self) -> bool:
        """Stoker and the limits: if one of them fails, there is nothing to compare."""
        return self.script in ("stoker", "ceiling", "ranged_gets")

    @property
    def python(self) -> Path:
        """The interpreter it runs in."""
        return VENVS / self.venv / "bin" / "python" if self.venv else Path(sys.executable)


class Contender:
    """A process of an entry, from its start to the end of the block.

    Args:
        task: the fields of `load_contract.Task`, but for `folder` and `options`.
        environment: variables besides this process's own.

    Raises:
        StokerError: it doesn't start; the end of its words is told.
    """

    def __init__(
        self, entry: Entry, task: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self.entry = entry
        self._task, self._environment = dict(task), dict(environment or {})

    def __enter__(self) -> Contender:
        self._folder = Path(tempfile.mkdtemp(prefix="stoker-load-"))
        (self._folder / "own").mkdir()
        (self._folder / "tmp").mkdir()
        self._task |= {"folder": str(self._folder / "own"), "options": dict(self.entry.options)}
        own = {"PYTHONPATH": "" if self.entry.venv else str(ROOT), "HF_HUB_OFFLINE": "1"}
        own |= {"TMPDIR": str(self._folder / "tmp"), "HF_HOME": str(self._folder / "hf")}
        self._errors = (self._folder / "errors").open("w+b")
        self._process = subprocess.Popen(
            [str(self.entry.python), str(SCRIPTS / f"load_{self.entry.script}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **own, **self._environment},
            # Workers go with it, and a Ctrl-C is for us alone.
            start_new_session=True,
        )
        self._rest = b""
        try:
            self.version = str(self._answer("start", _PATIENCE_S)["version"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._write({"do": "end"})
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    def ask(self, do: str, *, patience: float = _PATIENCE_S, **more: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer.

        Raises:
            StokerError: it failed, ended, or says nothing for `patience` seconds.
        """
        try:
            self._write({"do": do, "task": self._task, **more})
        except OSError:
            raise self._ended(do) from None
        answer = self._answer(do, patience)
        if "failed" in answer:
            raise StokerError(f"{do}: {answer['failed']}")
        return answer

    def _write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, do: str, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        source, until = self._process.stdout.fileno(), time.monotonic() + patience
        while b"\n" not in self._rest:
            ready, _, _ = select.select([source], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise StokerError(f"{do}: no answer within {patience:.0f} s")
            more = os.read(source, 1 << 16)
            if not more:
                raise self._ended(do)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def _ended(self, do: str) -> StokerError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._errors.seek(0)
        said = " ".join(self._errors.read().decode(errors="replace").split())[-_TAIL:]
        return StokerError(f"{do}: ended with exit code {self._process.returncode}: {said}")
