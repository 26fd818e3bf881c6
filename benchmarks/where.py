"""Where the CPU time of a unit goes: the units of a job in one process, sampled from outside.

py-spy looks a hundred times a second which of our functions a thread that is on a CPU is in, or
came from; so the work of libraries counts for the step that called them, and waiting (for a disk,
for another program's turn) isn't counted at all. Ray has no part in this: its share of a real job
is in that job's report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.contest import Text
from pipelines.connect import ROOT
from pipelines.options import Options
from shards.errors import StokerError

RATE = 100
REST = "start"
# What the driver does before the first unit, whatever it calls.
BEFORE = ("pipelines/prepare.py", "pipelines/tokenizer.py", "pipelines/sample.py")
# From the innermost frame outwards, the first that is one of these says what is being done; where
# it is "", the next one does.
STEPS: tuple[tuple[str, str, str], ...] = (
    ("", "pipelines/fast.py", "_build"),
    ("rebuild gigatoken's caches", "pipelines/fast.py", "_renew"),
    ("load the tokenizer, once", "pipelines/fast.py", "__init__"),
    ("load the tokenizer, once", "pipelines/encode.py", "__init__"),
    ("encode: reference", "pipelines/encode.py", "encode"),
    ("begin and end tokens", "pipelines/encode.py", "frame"),
    ("encode: look for differing text", "pipelines/differing.py", ""),
    ("encode: look for differing text", "pipelines/normal.py", ""),
    ("encode: gigatoken", "pipelines/fast.py", ""),
    ("special texts", "pipelines/special_texts.py", ""),
    ("read", "pipelines/files.py", ""),
    ("read", "pipelines/read", ""),
    ("checksums", "shards/format.py", "xxh3"),
    ("checksums", "shards/format.py", "of"),
    ("checksums", "shards/format.py", "_hashes"),
    ("build the shard", "shards/writer.py", ""),
    ("write and fsync", "shards/store.py", ""),
    ("write and fsync", "shards/s3.py", ""),
    ("receipt", "shards/receipt.py", ""),
    ("fill the shard", "pipelines/fill.py", ""),
    ("draw documents to audit", "pipelines/audit.py", ""),
    ("rules for documents", "pipelines/rules.py", ""),
    ("rules for documents", "pipelines/rows.py", ""),
    ("the rest of a unit", "pipelines/write.py", ""),
)


def profile(text: Text) -> str:
    """Shares of the CPU time of tokenizing `text` in one process, as lines.

    Raises:
        StokerError: py-spy may not look at a process here.
    """
    with tempfile.TemporaryDirectory(prefix="stoker-where-") as folder:
        stacks = Path(folder) / "stacks"
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", str(RATE)]
        spy += ["--format", "raw", "--output", str(stacks), "--"]
        own = [sys.executable, "-m", "benchmarks.where", "--output", f"{folder}/tokens"]
        own += ["--tokenizer", text.tokenizer, "--column", text.column, *text.files]
        done = subprocess.run([*spy, *own], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not stacks.exists():
            raise StokerError(f"py-spy failed: {' '.join(done.stderr.split())[-300:]}")
        return table(shares(stacks.read_text().splitlines()), text.bytes)


def shares(stacks: Iterable[str]) -> dict[str, float]:
    """Seconds by step of py-spy's raw lines: `outermost (file:line);...;innermost (...) looks`."""
    found: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        found[_step(frames.split(";"))] += int(count)
    return {name: count / RATE for name, count in found.most_common()}


def _step(frames: Sequence[str]) -> str:
    if any(file in frame for frame in frames for file in (*BEFORE, "choose_engine (")):
        return REST
    for frame in reversed(frames):
        function, _, place = frame.partition(" (")
        for step, file, wanted in STEPS:
            if file in place and wanted in ("", function):
                if step:
                    return step
                break
    return REST


def table(seconds: dict[str, float], text_bytes: int) -> str:
    """Each step's share of the work, start-up apart."""
    work = {name: value for name, value in seconds.items() if name != REST}
    total = sum(work.values())
    lines = [f"{'CPU time of a unit':32} {'share':>7} {'CPU-s/GB':>9}"]
    for name, value in work.items():
        lines.append(f"{name:32} {value / total:7.1%} {value / text_bytes * 1e9:9.2f}")
    lines.append(f"{'together':32} {1:7.0%} {total / text_bytes * 1e9:9.2f}")
    lines.append(
        f"{text_bytes / 1e6:.0f} MB of text, one process, {RATE} looks a second; besides "
        f"{seconds.get(REST, 0):.1f} s to start: imports, tokenizer, proof that engines are equal"
    )
    return "\n".join(lines)


def run_here(options: Options) -> int:
    """All units of a job in this process, without Ray and without a commit; their tokens."""
    from pipelines.append import Held
    from pipelines.choose import choose_engine
    from pipelines.job import make_job
    from pipelines.prepare import prepare
    from pipelines.record import Record
    from pipelines.sample import sample_documents
    from pipelines.write import run_unit

    held = Held.at(options.output)
    plan, tokenizer = prepare(options, held)
    choice = choose_engine(
        options.engine, tokenizer, options.special_tokens, sample_documents(plan)
    )
    job = make_job(Record(options, plan, tokenizer, held), choice)
    return sum(run_unit(unit, job).counts.tokens for unit in plan.units)


def main(arguments: Sequence[str] | None = None) -> int:
    """What py-spy looks at."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where")
    parser.add_argument("files", nargs="+")
    for name in ("output", "tokenizer", "column"):
        parser.add_argument(f"--{name}", required=True)
    chosen = parser.parse_args(arguments)
    options = Options(
        inputs=tuple(chosen.files),
        output=chosen.output,
        tokenizer=chosen.tokenizer,
        text_column=chosen.column,
    )
    print(run_here(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
