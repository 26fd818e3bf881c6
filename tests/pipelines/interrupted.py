"""A job that lasts long enough to be disturbed, and what it leaves when nobody does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from shards.lease import LEASE
from shards.store import open_store
from shards.verify import verify
from tests.pipelines.processes import SCRIPT, environment, process
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

UNITS = 24


@dataclass(frozen=True)
class SlowJob:
    """A job of `UNITS` units with the slow engine, so that there is a middle to be stopped in.

    Attributes:
        arguments: of the command, all but the output.
        whole: what an undisturbed run writes, by key.
    """

    arguments: tuple[str, ...]
    whole: Mapping[str, bytes]

    def command(self, output: Path | str) -> list[str]:
        return [sys.executable, SCRIPT, *self.arguments, "--output", str(output)]

    def run_to_end(self, output: Path | str, home: Path, **more: str) -> str:
        """Runs the command; returns what it said. `more` are variables."""
        with process(self.command(output), environment(home, **more)) as job:
            return ended_well(job)

    def assert_whole(self, output: Path | str) -> None:
        """The output is what an undisturbed run writes, and nothing else but logs and receipts."""
        found = content(output)
        assert sorted(found) == sorted(self.whole)
        assert [key for key in found if found[key] != self.whole[key]] == []
        verify(str(output))


def make_slow_job(folder: Path, home: Path) -> SlowJob:
    """Writes the input into `folder`, and runs the job once."""
    (folder / "t.json").write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    text = "some words and numbers 0123 of a document " * 200
    lines = [json.dumps({"text": f"{i} {text}"}) for i in range(30 * UNITS)]
    path = folder / "in.jsonl"
    path.write_text("\n".join(lines))
    unit_bytes = -(-path.stat().st_size // UNITS)
    arguments: tuple[str, ...] = ("--input", str(path), "--tokenizer", str(folder / "t.json"))
    arguments += ("--end-token", "<|end|>", "--engine", "tokenizers")
    arguments += ("--unit-bytes", str(unit_bytes))
    SlowJob(arguments, {}).run_to_end(folder / "whole", home)
    return SlowJob(arguments, content(folder / "whole"))


def ended_well(job: subprocess.Popen[str]) -> str:
    """Waits for the end; returns what was said."""
    out, err = job.communicate(timeout=250)
    assert job.returncode == 0, out + err
    return out + err


def content(output: Path | str) -> dict[str, bytes]:
    store = open_store(str(output))
    assert not store.exists(LEASE)
    skipped = ("logs/", "receipts/")
    return {e.key: store.read(e.key) for e in store.list() if not e.key.startswith(skipped)}


def receipts(output: Path) -> int:
    """Receipts of single units: what is done, as long as the job runs."""
    return len(list(output.glob("receipts/*/*.arrow")))


def busy_workers(parent: int) -> list[psutil.Process]:
    """Ray's workers below a process that have a unit at this moment; idle ones are ray::IDLE."""
    found = []
    try:
        for child in psutil.Process(parent).children(recursive=True):
            try:
                if "ray::MapBatches" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return found
