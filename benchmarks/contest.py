"""Who takes part in the tokenize bench, and how each is run: a command of its own, watched."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.watch import Watched, watch
from pipelines.connect import ROOT
from shards.dataset import open_dataset
from shards.errors import StokerError

PEERS = {
    "datasets": "HF datasets.map",
    "datatrove": "datatrove",
    "litdata": "litData optimize",
    "mosaicml": "MosaicML MDSWriter",
    "ray_data": "Ray Data + transformers",
}
SCRIPTS = Path(__file__).resolve().parent / "peers"
VENVS = ROOT / ".peers"
# Nobody asks a hub for anything, and no Ray that happens to run here is joined.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "RAY_ADDRESS": "local"}
_OURS = {**_ENVIRONMENT, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Text:
    """What is tokenized, and by what.

    Attributes:
        files: Parquet files; bytes: UTF-8 in their `column`.
        tokenizer: a folder; end_token: the text of the token after each document.
        tokens, ids_sum: what everybody should come to, end tokens included.
    """

    files: tuple[str, ...]
    bytes: int
    column: str
    tokenizer: str
    end_token: str
    tokens: int
    ids_sum: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one contender.

    Attributes:
        startup_s: until it began to read; working_s: from then to the end of what it writes.
        cpu_s, peak_rss: of all its processes, and of the largest of them.
        equal: whether tokens and the sum of their ids are what they should be.
        work_cpu_s: CPU seconds of the work alone: decode + encode, or Stoker's units.
        report: of Stoker's job.
    """

    text_bytes: int
    startup_s: float
    working_s: float
    cpu_s: float
    peak_rss: int
    tokens: int
    equal: bool
    work_cpu_s: float | None = None
    report: dict[str, Any] | None = None

    @property
    def rate(self) -> float:
        """Text MB/s while working."""
        return self.text_bytes / 1e6 / self.working_s

    @property
    def whole_rate(self) -> float:
        """Text MB/s, start-up included."""
        return self.text_bytes / 1e6 / (self.startup_s + self.working_s)

    @property
    def cpu_s_per_gb(self) -> float:
        return self.cpu_s / (self.text_bytes / 1e9)


def missing(peer: str) -> str | None:
    """Why this peer can't be run; None when it can."""
    if python_of(peer).exists():
        return None
    failed = VENVS / f"{peer}.failed"
    if failed.exists():
        return f"could not be installed: {failed.read_text().strip()}"
    return "not installed: make peers"


def python_of(peer: str) -> Path:
    """The interpreter of its environment; plain Ray Data runs in Stoker's own."""
    return Path(sys.executable) if peer == "ray_data" else VENVS / peer / "bin" / "python"


def run_limit(text: Text, processes: int, engine: str = "gigatoken") -> Run:
    """pyarrow's decode and the engine's encode, nothing else; see `benchmarks.limit`."""
    arguments = ["--tokenizer", text.tokenizer, "--column", text.column, "--engine", engine]
    command = [sys.executable, "-m", "benchmarks.limit", *arguments]
    seen = watch([*command, "--processes", str(processes), *text.files], _OURS)
    return _run_of(seen, text)


def _run_of(seen: Watched, text: Text) -> Run:
    """What a watched script said of itself: see `benchmarks/peers/contract.py`."""
    result = seen.result()
    return Run(
        text_bytes=result.get("text_bytes", text.bytes),
        startup_s=result["began"] - seen.began,
        working_s=result["ended"] - result["began"],
        cpu_s=seen.cpu_s,
        peak_rss=seen.peak_rss,
        tokens=result["tokens"],
        equal=(result["tokens"], result["ids_sum"]) == (text.tokens, text.ids_sum),
        work_cpu_s=result.get("cpu_s"),
    )


def run_stoker(text: Text, engine: str) -> Run:
    """The command, into a new folder: its own Ray, plan, shards, checksums, fsync, commit."""
    with tempfile.TemporaryDirectory(prefix="stoker-tokenize-") as folder:
        out = f"{folder}/tokens"
        seen, report = watch_stoker(text.files, text.column, text.tokenizer, engine, out)
        tokens, ids_sum = count_ids(out)
    working = report["seconds"]["tasks"] + report["seconds"]["finish"]
    return Run(
        text_bytes=report["bytes"]["text"],
        startup_s=seen.seconds - working,
        working_s=working,
        cpu_s=seen.cpu_s,
        peak_rss=seen.peak_rss,
        tokens=tokens,
        equal=(tokens, ids_sum) == (text.tokens, text.ids_sum),
        work_cpu_s=report["unit_cpu_seconds"],
        report=report,
    )


def watch_stoker(
    files: Sequence[str], column: str, tokenizer: str, engine: str, output: str
) -> tuple[Watched, dict[str, Any]]:
    """Runs `pipelines/tokenize.py` as a user would; what was seen, and its report.json."""
    chosen = ["--output", output, "--tokenizer", tokenizer, "--text-column", column]
    script = str(ROOT / "pipelines" / "tokenize.py")
    command = [sys.executable, script, *chosen, "--engine", engine, "--input", *files]
    seen = watch(command, _OURS)
    (written,) = Path(output).glob("logs/*/report.json")
    return seen, json.loads(written.read_text())


def run_peer(peer: str, text: Text, workers: int) -> Run:
    """A peer's script, in its environment.

    Raises:
        StokerError: it failed, or isn't installed.
    """
    reason = missing(peer)
    if reason:
        raise StokerError(f"{PEERS[peer]}: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="stoker-peer-"))
    try:
        chosen = ["--column", text.column, "--tokenizer", text.tokenizer]
        chosen += ["--end-token", text.end_token, "--output", str(folder / "out")]
        chosen += ["--workers", str(workers)]
        (folder / "out").mkdir()
        (folder / "tmp").mkdir()
        # Ray's sockets need short paths, so it keeps the usual folder.
        own = {"TMPDIR": str(folder / "tmp"), "HF_HOME": str(folder / "hf")}
        seen = watch(
            [str(python_of(peer)), str(SCRIPTS / f"run_{peer}.py"), *text.files, *chosen],
            {**_ENVIRONMENT, **({} if peer == "ray_data" else own)},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _run_of(seen, text)


def expected(files: Sequence[str], column: str, tokenizer: str) -> tuple[int, int]:
    """Tokens that these files should come to, end tokens included, and the sum of their ids."""
    chosen = ["--tokenizer", tokenizer, "--column", column, "--processes", str(cores())]
    seen = watch([sys.executable, "-m", "benchmarks.limit", *chosen, *files], _OURS).result()
    return seen["tokens"], seen["ids_sum"]


def count_ids(dataset: str) -> tuple[int, int]:
    """Tokens of a local dataset and the sum of their ids, from its shards as plain Arrow files."""
    opened = open_dataset(dataset)
    tokens = total = 0
    for shard in range(len(opened.index.tokens)):
        path = os.path.join(dataset, opened.path(shard))
        with pa.memory_map(path) as file:
            ids = pa.ipc.open_file(file).get_batch(0).column("input_ids").flatten()
            tokens += len(ids)
            total += pc.sum(ids).as_py() or 0
    return tokens, total


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
