"""A million units without the tokens: does the driver plan, resume and commit in minutes and GBs?

python -m benchmarks.scale [--units N] [--cells N] [--folder DIR]

Everything is synthetic: inputs and shards are sparse files (their sizes are told, their bytes are
nowhere), receipts hold random checksums. The listing, the plan, the receipts' parts and the commit
are the job's own code on a local folder; no Ray runs and no token is read. On S3 the listings take
a request for each 1,000 names on top.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.command import guarded
from pipelines.choose import Choice
from pipelines.inputs import find_inputs
from pipelines.options import Options, show_size
from pipelines.plan import Plan, make_plan
from pipelines.record import Record
from pipelines.resident import peak_bytes
from pipelines.tokenizer import Tokenizer
from shards.errors import StokerError
from shards.format import CELL_BYTES, FORMAT_VERSION, Cells, shard_path
from shards.ledger import FOLDED_TOGETHER, Ledger, part_name
from shards.receipt import Counts, Receipt, ShardRecord, to_batch
from shards.store import open_store
from shards.writer import to_ipc

AIM_S, AIM_BYTES = 120.0, 4 << 30
DONE_BEFORE = 0.99

_INPUT_BYTES = 256 << 20  # the largest unit, so that each file is one
_HEAD = 64
_IN_A_FOLDER = 1_000
# Units finish a little out of order, as on some thousand cores.
_OUT_OF_ORDER = 4_096
_TOKENIZER = Tokenizer(
    name="synthetic",
    blob='{"model": {"type": "WordLevel", "vocab": {"<end>": 0, "word": 99999}}}',
    end_id=0,
    end_text="<end>",
)


@dataclass(frozen=True)
class Size:
    """What is simulated.

    Attributes:
        cells: checksummed cells of each unit's one shard; a real unit of 256 MiB of text has some
            4,000.
    """

    units: int
    cells: int
    folder: str

    @property
    def inputs(self) -> Path:
        return Path(self.folder, "inputs")

    @property
    def output(self) -> str:
        return str(Path(self.folder, "output"))

    @property
    def done(self) -> int:
        """Units that an earlier run had done."""
        return int(self.units * DONE_BEFORE)


@dataclass(frozen=True)
class Measured:
    """A step in a process of its own.

    Attributes:
        cpu_seconds: of it; the rest of its `seconds` it waited, for the disk or for other work.
        peak_bytes: the most memory the process ever had, Python and libraries included.
    """

    step: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        times = f"{self.seconds:>9.1f} s{self.cpu_seconds:>9.1f} s"
        return f"{self.step:<44}{times} {show_size(self.peak_bytes):>12}"


def plan_of(size: Size) -> Plan:
    """What a driver does first: list every input, cut units, hash the plan."""
    options = _options(size)
    inputs = find_inputs(options.inputs, options.format)
    plan = make_plan(inputs, options, _TOKENIZER.fingerprint, _TOKENIZER.end_id, FORMAT_VERSION)
    if len(plan.units) != size.units:
        raise StokerError(f"{len(plan.units)} units were planned, not {size.units}")
    return plan


def resume(size: Size) -> None:
    """A start with 99 % done: the plan, then which of its units are missing."""
    plan = plan_of(size)
    record = Record(_options(size), plan, _TOKENIZER)
    if record.is_finished():
        raise StokerError("there is a dataset already")
    record.begin()
    missing = [unit for unit in plan.units if unit.number not in record.ledger.units]
    if len(missing) != size.units - size.done:
        raise StokerError(f"{len(missing)} units are missing, not {size.units - size.done}")


def take(size: Size) -> None:
    """What the driver does while the job runs: takes a receipt as each unit ends, folds them."""
    folder = Path(size.folder, "taken")
    ledger = Ledger(open_store(str(folder)), "0" * 16)
    for receipt in _receipts(ledger.plan, range(size.units), size.cells):
        ledger.add(receipt)
    shutil.rmtree(folder)


def commit(size: Size) -> None:
    """The end: every receipt is read, the tables and the manifest are written."""
    plan = Plan(_plan_id(size), (), (), 0, {}, {})
    record = Record(_options(size), plan, _TOKENIZER)
    record.ledger = Ledger.read(record.store, plan.id)
    record.commit(Choice("none", "synthetic"))
    if record.counts.documents != size.units:
        raise StokerError(f"{record.counts.documents} documents were committed")


STEPS: dict[str, Callable[[Size], object]] = {
    "list inputs and plan": plan_of,
    "the same, and resume with 99 % done": resume,
    "take and fold receipts, over the whole job": take,
    "read receipts and commit": commit,
}
# Hours, in a job of a million units: its memory counts and its time doesn't.
_OVER_THE_JOB = {"take and fold receipts, over the whole job"}


def simulate(size: Size) -> list[Measured]:
    """All steps, each in a process of its own; leaves a dataset without shards in the folder."""
    steps = len(STEPS) + 3
    with tqdm(total=steps, desc="scale", unit="step", disable=None, leave=False) as bar:
        for make in (make_inputs, make_shards, make_receipts):
            bar.set_description(make.__name__.replace("_", " "))
            make(size)
            bar.update()
        measured = []
        for name in STEPS:
            bar.set_description(name)
            if STEPS[name] is commit:
                _write_parts(size, range(size.done, size.units))
            measured.append(_measure(name, size))
            bar.update()
    return measured


def make_inputs(size: Size) -> None:
    """A sparse Parquet file (by its name) for each unit."""
    names = (
        size.inputs / f"{n // _IN_A_FOLDER:05d}" / f"{n % _IN_A_FOLDER:03d}.parquet"
        for n in range(size.units)
    )
    _sparse(names, _INPUT_BYTES)


def make_shards(size: Size) -> None:
    """A sparse file for the shard of each unit that is done."""
    plan = _plan_id(size)
    names = (Path(size.output, shard_path(plan, n, 0)) for n in range(size.done))
    _sparse(names, _shard_bytes(size.cells))


def make_receipts(size: Size) -> None:
    """The receipts of the units that are done, in parts as a driver leaves them."""
    _write_parts(size, range(size.done))


def _write_parts(size: Size, units: range) -> None:
    folder = Path(size.output, "receipts", _plan_id(size))
    folder.mkdir(parents=True, exist_ok=True)
    receipts = _receipts(folder.name, units, size.cells)
    while some := list(islice(receipts, FOLDED_TOGETHER)):
        data = to_ipc(to_batch(some))
        # As `shards.ledger.fold` names it, without its waiting for the disk.
        (folder / part_name(data)).write_bytes(data)


def _receipts(plan: str, units: range, cells: int) -> Iterator[Receipt]:
    """Receipts of one shard each, in about the order in which units finish."""
    random = np.random.default_rng(0)
    counts = Counts(rows=1, documents=1, tokens=cells * CELL_BYTES // 4, text_bytes=1)
    for start in range(units.start, units.stop, _OUT_OF_ORDER):
        window = np.arange(start, min(start + _OUT_OF_ORDER, units.stop))
        numbers = random.integers(0, 1 << 63, (3, cells), np.uint64)
        columns = Cells(numbers[0], numbers[1], numbers[2], None)
        for unit in random.permutation(window).tolist():
            yield Receipt(unit, counts, (_shard(plan, unit, columns),))


def _shard(plan: str, unit: int, cells: Cells) -> ShardRecord:
    size = len(cells.tokens_xxh3) * CELL_BYTES
    return ShardRecord(
        plan=plan,
        unit=unit,
        part=0,
        split="train",
        source="default",
        bytes=_shard_bytes(len(cells.tokens_xxh3)),
        tokens=size // 4,
        documents=1,
        tokens_at=_HEAD,
        documents_at=_HEAD + size,
        loss_mask_at=0,
        xxh3=unit,
        cells=cells,
    )


def _shard_bytes(cells: int) -> int:
    """Head, tokens, and the offsets of one document."""
    return _HEAD + cells * CELL_BYTES + 16


def _sparse(paths: Iterable[Path], size: int) -> None:
    folder = None
    for path in paths:
        if path.parent != folder:
            folder = path.parent
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        os.truncate(handle, size)
        os.close(handle)


def _plan_id(size: Size) -> str:
    """The plan's id, computed once: it is the name of a folder."""
    kept = Path(size.folder, "plan")
    if not kept.exists():
        kept.write_text(plan_of(size).id)
    return kept.read_text()


def _options(size: Size) -> Options:
    return Options(inputs=(str(size.inputs),), output=size.output, tokenizer="synthetic")


def _measure(name: str, size: Size) -> Measured:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (name, size))


def _measured(name: str, size: Size) -> Measured:
    start, cpu = time.perf_counter(), time.process_time()
    STEPS[name](size)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Measured(name, seconds, cpu, peak_bytes())


def report(size: Size, measured: Sequence[Measured]) -> str:
    """The table, and what it is of."""
    within = all(
        (m.seconds <= AIM_S or m.step in _OVER_THE_JOB) and m.peak_bytes <= AIM_BYTES
        for m in measured
    )
    head = f"{size.units:,} units of {size.cells} cells, all synthetic, in {size.folder}"
    words = "aims (no time for the job-long step)"
    aim = f"{words:<44}{AIM_S:>9.0f} s{'':>11} {show_size(AIM_BYTES):>12}"
    verdict = "within the aims" if within else "NOT within the aims"
    lines = [
        head,
        f"{'':<44}{'time':>11}{'of CPU':>11} {'peak memory':>12}",
        *map(str, measured),
        aim,
        verdict,
    ]
    return "\n".join(lines)


@contextmanager
def _place(chosen: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="stoker-scale-", dir=chosen) as folder:
        yield folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0 also where an aim is missed, since machines differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--units", type=int, default=1_000_000, help="input files, units, shards (1000000)")
    add("--cells", type=int, default=16, help="cells of each shard (16)")
    add("--folder", type=Path, help="where: two files a unit are made there, and removed")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        with _place(chosen.folder) as folder:
            size = Size(chosen.units, chosen.cells, folder)
            print(report(size, simulate(size)))

    return guarded("scale", work)


if __name__ == "__main__":
    sys.exit(main())
