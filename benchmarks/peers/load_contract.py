"""How the load benchmark talks with a contender: a command a line in, a JSON object a line out.

Standard library only: it runs in the peers' venvs. A contender is a process that

    prepare   writes its own data, made from the same ids as everybody's
    state     says what a run would have saved behind a share of an epoch
    open      opens data and loader, at the beginning of an epoch or from such a state, and takes
              the first batch
    round     takes batches for some seconds, over the ends of epochs where it is endless
    epoch     opens, takes every batch of one epoch, and counts tokens and the sum of their ids
    end       goes
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What a contender is to read.

    Attributes:
        flat, dtype, tokens: a file of ids, numpy's name of their type, how many of them count: a
            multiple of `rows` * `seq_len`.
        data: folder or `s3://bucket/prefix` of what it prepared itself.
        rows, seq_len: of a batch.
        folder: an empty folder of this process's own, for caches.
        options: which way of its to load.
    """

    flat: str
    dtype: str
    tokens: int
    data: str
    rows: int
    seq_len: int
    folder: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Rows of an epoch."""
        return self.tokens // self.seq_len


class Contender:
    """What a script says of one way to load.

    Attributes:
        package: its distribution, whose version is reported.
    """

    package = ""

    def __init__(self, task: Task) -> None:
        self.task = task

    def prepare(self, output: Path) -> None:
        """Writes its data into an empty folder. Off the clock."""

    def state(self, at: float) -> dict[str, Any] | None:
        """JSON-able, of a run that had taken this share of an epoch; None: it can't be resumed."""
        return None

    def open(self, state: dict[str, Any] | None) -> None:
        """Opens data and loader; with a state, where that one was saved."""
        raise NotImplementedError

    def epoch(self) -> Iterator[Any]:
        """The batches of the next epoch, or of what is left of the first."""
        raise NotImplementedError

    def ids(self, batch: Any) -> Any:
        """A batch's ids: a tensor or array [rows, seq_len]."""
        return batch["input_ids"]

    def gives(self, batch: Any) -> str:
        """What a batch holds, in words."""
        kind = str(self.ids(batch).dtype).removeprefix("torch.")
        return kind + (" + labels" if isinstance(batch, dict) and "labels" in batch else "")


def serve(contender: type[Contender]) -> None:
    """Answers commands until the last one, or until nobody is left to send any."""
    # What libraries print, and what their workers inherit, is kept apart from the answers.
    commands = os.fdopen(os.dup(0))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    said: dict[str, Any] = {"version": _version(contender.package)}
    answers.write(json.dumps(said) + "\n")
    served: _Served | None = None
    for line in commands:
        command = json.loads(line)
        if command["do"] == "end":
            break
        try:
            if served is None:
                served = _Served(contender(Task(**command["task"])))
            said = served.answer(command)
        except Exception as error:
            said = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(said) + "\n")
    # Whoever sent the commands ends what doesn't end by itself now.
    answers.close()


class _Served:
    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.batches: Iterator[Any] = iter(())

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        do = command["do"]
        if do == "prepare":
            self.contender.prepare(Path(command["output"]))
            return {}
        if do == "state":
            return {"state": self.contender.state(command["at"])}
        if do == "open":
            return self.open(command.get("state"))
        if do == "round":
            return self.round(command["seconds"], command["endless"])
        return self.count()

    def open(self, state: dict[str, Any] | None) -> dict[str, Any]:
        began = time.perf_counter()
        self.contender.open(state)
        self.batches = self.contender.epoch()
        batch = next(self.batches)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "gives": self.contender.gives(batch)}

    def round(self, seconds: float, endless: bool) -> dict[str, Any]:
        """A gap is the time from one batch to the next; at the end of an epoch it holds all that
        beginning the next one takes."""
        ids, batches = self.contender.ids, self.batches
        clock = time.perf_counter_ns
        gaps, tokens, over = array("q"), 0, False
        began = last = clock()
        until = began + int(seconds * 1e9)
        while last < until:
            try:
                batch = next(batches)
            except StopIteration:
                if not endless:
                    over = True
                    break
                batches = self.batches = self.contender.epoch()
                continue
            shape = ids(batch).shape
            tokens += shape[0] * shape[1]
            now = clock()
            gaps.append(now - last)
            last = now
        return {
            "tokens": tokens,
            "seconds": (last - began) / 1e9,
            "over": over,
            **_spread(gaps),
        }

    def count(self) -> dict[str, Any]:
        self.contender.open(None)
        tokens = ids_sum = 0
        for batch in self.contender.epoch():
            ids = self.contender.ids(batch)
            tokens += ids.shape[0] * ids.shape[1]
            ids_sum += int(ids.sum())
        return {"tokens": tokens, "ids_sum": ids_sum}


def _spread(gaps: array[int]) -> dict[str, float]:
    if not gaps:
        return {"gap_p50_s": 0.0, "gap_p99_s": 0.0, "gap_max_s": 0.0}
    ordered = sorted(gaps)
    return {
        "gap_p50_s": ordered[len(ordered) // 2] / 1e9,
        "gap_p99_s": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1e9,
        "gap_max_s": ordered[-1] / 1e9,
    }


def _version(package: str) -> str:
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""
