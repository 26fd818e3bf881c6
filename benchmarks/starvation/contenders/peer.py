"""Other libraries' loaders, which train in environments of their own.

A process of the peer's environment runs the very same loop over its loader and hands back what was
written down: a hop from process to process in between would be held against the peer.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import SCRIPTS, missing
from benchmarks.loading.driver import Contender as Process
from benchmarks.loading.driver import Entry
from benchmarks.starvation.cards.accelerator import Node
from benchmarks.starvation.checks.ladder import Card
from benchmarks.starvation.loop.attempt import Attempt
from benchmarks.starvation.loop.gather import decode
from benchmarks.starvation.loop.measure import Alone, Plan
from benchmarks.synthetic import flatten
from pipelines.connect import ROOT
from shards.dataset import open_dataset
from shards.errors import StokerError

# Name: title, `benchmarks/peers/load_<script>.py`, environment of `make peers` ("": Stoker's own).
KNOWN = {
    "litdata": ("litData", "litdata", "litdata"),
    "mosaicml": ("MosaicML Streaming", "mosaicml", "mosaicml"),
    "torch": ("torch over a memory map", "memmap", ""),
}
WORKERS = 2
# Times that a loop may take in all, beyond what its plan says: imports, epochs that begin.
PATIENCE_S = 300.0
_TAIL = 400


@dataclass
class Peer:
    """`library`'s own loader over the same tokens, with `workers` processes.

    Its data is made of the ids of `data`'s split, off the clock, and of a whole number of batches;
    it lies on this disk beside Stoker's until the run is over.
    """

    library: str
    data: str
    split: str
    seq_len: int
    batch_size: int
    card: Card
    node: Node = field(default_factory=Node)
    workers: int = WORKERS
    bounded: bool = field(default=True, init=False)
    _folder: Path | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """See `Contender.name`."""
        return self.library

    @property
    def title(self) -> str:
        """See `Contender.title`."""
        return KNOWN[self.library][0]

    @property
    def note(self) -> str:
        """See `Contender.note`."""
        processes = f"{self.workers} worker process{'' if self.workers == 1 else 'es'}"
        return f"its own format and shuffle, local files, {processes}"

    @property
    def absent(self) -> str | None:
        """Why it can't take part; None where it can."""
        return missing(self._entry.venv) if self._entry.venv else None

    @property
    def _entry(self) -> Entry:
        title, script, venv = KNOWN[self.library]
        return Entry(title, script, venv, {"workers": self.workers})

    def with_workers(self, workers: int) -> Peer:
        """The same with so many processes."""
        other = replace(self, workers=workers)
        other._folder = self._folder
        return other

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`: its data."""
        return self._prepared()

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="stoker-peer-") as name:
            self._folder = Path(name)
            self._check_room()
            flatten(self.data, self._folder / "ids", self.split)
            (self._folder / "data").mkdir()
            # What has no environment of its own reads the ids as they are.
            if self._entry.venv:
                with Process(self._entry, self._task()) as process:
                    process.ask("prepare", output=str(self._folder / "data"), patience=1800)
            yield
        self._folder = None

    def attempt(self, plan: Plan, seeds: int, on_step: Callable[[int], object]) -> Attempt:
        """See `attempt.Elsewhere`.

        Raises:
            StokerError: its process failed, or said nothing for longer than the plan allows.
        """
        if self._folder is None:
            raise StokerError(f"{self.title}: attempt it inside its ready(), which makes its data")
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            spec = folder / "spec.json"
            spec.write_text(json.dumps(self._spec(plan, seeds, folder)))
            self._run(spec, 4 * plan.seconds + PATIENCE_S, on_step)
            recordings = [decode((folder / f"{at}.npz").read_bytes()) for at in range(seeds)]
            said = json.loads((folder / "said.json").read_text())
        resumed = () if said["resume_ms"] is None else (said["resume_ms"],)
        return Attempt(tuple(recordings), Alone(**said["alone"]), resumed)

    def _spec(self, plan: Plan, seeds: int, folder: Path) -> dict[str, Any]:
        """What the process is told."""
        return {
            "script": self._entry.script,
            "task": self._task() | {"folder": str(folder), "options": {"workers": self.workers}},
            "plan": asdict(plan),
            "profile": asdict(self.card.profile),
            "cards": self.card.cards,
            "time_scale": self.card.time_scale,
            "node": asdict(self.node),
            "seeds": seeds,
            "folder": str(folder),
        }

    def _task(self) -> dict[str, Any]:
        """The fields of `load_contract.Task` that are the same in every process."""
        dataset = open_dataset(self.data)
        batch = self.batch_size * self.seq_len
        assert self._folder is not None
        return {
            "flat": str(self._folder / "ids"),
            "dtype": dataset.manifest.dtype,
            "tokens": dataset.stream(self.split).tokens // batch * batch,
            "data": str(self._folder / "data"),
            "rows": self.batch_size,
            "seq_len": self.seq_len,
        }

    def _check_room(self) -> None:
        """Ids as they are, and the peer's own of 4 bytes each; as much again has to stay free."""
        assert self._folder is not None
        dataset = open_dataset(self.data)
        each = np.dtype(dataset.manifest.dtype).itemsize + 4
        needed = dataset.stream(self.split).tokens * each
        if shutil.disk_usage(self._folder).free < 2 * needed:
            raise StokerError(
                f"its own copy of the data needs {needed / 1e9:.1f} GB in {self._folder.parent}"
                " and as much again free: choose a smaller split, or TMPDIR"
            )

    def _run(self, spec: Path, patience: float, on_step: Callable[[int], object]) -> None:
        """Run the loop in the peer's environment; `on_step` gets the number of steps done."""
        own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(spec.parent)}
        with (spec.parent / "errors").open("w+b") as errors:
            process = subprocess.Popen(
                [str(self._entry.python), str(SCRIPTS / "starve.py"), str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **own},
                # Workers go with it, and a Ctrl-C is for us alone.
                start_new_session=True,
            )
            try:
                code = _follow(process, patience, on_step)
            finally:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                assert process.stdout is not None
                process.stdout.close()
            if code:
                errors.seek(0)
                said = " ".join(errors.read().decode(errors="replace").split())[-_TAIL:]
                raise StokerError(f"its process ended with exit code {code}: {said}")


def _follow(
    process: subprocess.Popen[bytes], patience: float, on_step: Callable[[int], object]
) -> int:
    """Counts the steps that `process` tells of until it ends; its exit code."""
    assert process.stdout is not None
    source, done = process.stdout.fileno(), 0
    until = time.monotonic() + patience
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise StokerError(f"its process said nothing for {patience:.0f} s")
        told = os.read(source, 1 << 16)
        if not told:
            return process.wait(PATIENCE_S)
        until = time.monotonic() + patience
        for _ in range(told.count(b"\n")):
            done += 1
            on_step(done)
