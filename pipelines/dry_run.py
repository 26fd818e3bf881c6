"""`--dry-run`: what a job would do, and about how long it would take. Nothing is written."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pyarrow.compute as pc

from pipelines.append import Held
from pipelines.choose import Choice, choose_engine, engine_for
from pipelines.files import open_input
from pipelines.options import Options, show_size
from pipelines.plan import Plan, is_divisible
from pipelines.prepare import prepare
from pipelines.read import BadRow, read_slice
from pipelines.read_parquet import largest_group
from pipelines.record import Record
from pipelines.rows import Rows
from pipelines.rules import UnitRules
from pipelines.sample import chosen_units, sample_documents
from pipelines.tokenizer import Tokenizer
from shards.format import token_dtype
from shards.words import rule_lines

# Text that is encoded for the estimate: seconds with the slow engine, a blink with the fast one.
_SAMPLE_BYTES = 4 << 20


@dataclass(frozen=True)
class Measured:
    """What a sample of the job's own input took here.

    Attributes:
        input_bytes, text_bytes, tokens: of the sample, end tokens included.
        read_seconds, encode_seconds: of CPU.
        rows: of the batches that the sample was taken from.
        bad: those of them that are malformed.
    """

    input_bytes: float
    text_bytes: int
    tokens: int
    read_seconds: float
    encode_seconds: float
    rows: int
    bad: tuple[BadRow, ...]

    @property
    def cpu_per_byte(self) -> float:
        """CPU seconds a byte of input."""
        return (self.read_seconds + self.encode_seconds) / max(self.input_bytes, 1.0)


@dataclass(frozen=True)
class Preview:
    """A job as it would be; printed, it is what `--dry-run` says.

    Attributes:
        state: of the output.
        coarse: what is said of a Parquet file whose row groups are larger than a unit; "": nothing.
    """

    output: str
    state: str
    plan: Plan
    tokenizer: Tokenizer
    choice: Choice
    shard_bytes: int
    measured: Measured
    coarse: str

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        units = self.plan.units
        total = sum(unit.bytes for unit in units)
        yield "dry run: nothing is written"
        yield f"  output      {self.output}: {self.state}"
        if not units:
            return
        yield f"  input       {len(self.plan.inputs):,} files, {show_size(total)} to read"
        for (source, kind), (count, size) in sorted(_by_kind(self.plan).items()):
            yield f"              {source}: {count:,} {kind}, {show_size(size)}"
        yield (
            f"  plan        {self.plan.id}: {len(units):,} units of about "
            f"{show_size(self.plan.unit_bytes)}, the largest {show_size(self._largest())}"
        )
        if whole := [
            item for item in self.plan.inputs if not is_divisible(item, self.plan.reading)
        ]:
            most = show_size(max(item.size for item in whole))
            yield f"              {len(whole):,} files can't be divided, the largest {most}"
        if self.coarse:
            yield f"              {self.coarse}"
        for line in rule_lines(self.plan.rules):
            yield f"  rules       {line}"
        yield f"  tokenizer   {self.tokenizer.name}, tokens as {self._dtype}"
        for name in ("begin", "end"):
            if text := getattr(self.tokenizer, f"{name}_text"):
                number = getattr(self.tokenizer, f"{name}_id")
                yield f"              {name} token {number} {text!r}"
        yield f"  engine      {self.choice.engine}: {self.choice.reason}"
        if bad := self.measured.bad:
            yield (
                f"  bad rows    {len(bad):,} of the first {self.measured.rows:,} rows looked at; "
                f"the first: {bad[0]}"
            )
        yield from self._estimate(total)

    @property
    def _dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        return token_dtype(self.tokenizer.largest_id)

    def _largest(self) -> int:
        return max((unit.bytes for unit in self.plan.units), default=0)

    def _estimate(self, total: int) -> Iterator[str]:
        measured = self.measured
        if not measured.text_bytes:
            yield "  estimate    none: the beginning of the input holds no document"
            return
        ratio = measured.tokens / max(measured.input_bytes, 1.0)
        width = self._dtype.itemsize
        splits = 2 if self.plan.rules.validation else 1
        shards = sum(
            max(splits, -int(-unit.bytes * ratio * width // self.shard_bytes))
            for unit in self.plan.units
        )
        cpu, cores = measured.cpu_per_byte * total, os.cpu_count() or 1
        # The last slice of a source with a limit is read in part.
        about = "about" if self.plan.rules.limit is None else "at most about"
        yield (
            f"  estimate    {about} {ratio * total:.2g} tokens, "
            f"{show_size(ratio * total * width)} in {shards:,} shards of at most "
            f"{show_size(self.shard_bytes)}"
        )
        yield (
            f"              {about} {cpu:.2g} s of CPU for reading and encoding, "
            f"{cpu / cores:.2g} s on the {cores} cores of this machine, without start and writing"
        )
        yield (
            f"              from {show_size(measured.text_bytes)} of this job's text, encoded here "
            "with cold caches: an estimate, not a promise"
        )


def preview(options: Options) -> Preview:
    """What `options` would do; writes nothing, starts no Ray.

    Raises:
        StokerError: what would stop the job before its first task.
    """
    held = Held.at(options.output)
    plan, tokenizer = prepare(options, held)
    record = Record(options, plan, tokenizer, held)
    finished = record.is_finished()
    choice = choose_engine(
        options.engine, tokenizer, options.special_tokens, sample_documents(plan)
    )
    return Preview(
        output=record.store.uri,
        state=_state(finished, plan, held, options),
        plan=plan,
        tokenizer=tokenizer,
        choice=choice,
        shard_bytes=options.shard_bytes,
        measured=_measure(plan, tokenizer, options, choice),
        coarse=_coarse(plan),
    )


def _coarse(plan: Plan) -> str:
    """What is to say of the largest Parquet file, if its row groups are larger than two units."""
    pieces = (piece for unit in plan.units for piece in unit.slices if piece.format == "parquet")
    largest = max(pieces, key=attrgetter("size"), default=None)
    if largest is None or largest.size <= 2 * plan.unit_bytes:
        return ""
    with open_input(largest) as file:
        groups, size = largest_group(file)
    if size <= 2 * plan.unit_bytes:
        return ""
    return (
        f"{largest.uri} has {groups:,} row groups, the largest of {show_size(size)}: one task "
        "reads it alone, so few cores may work on this file. Smaller row groups would help"
    )


def _state(finished: bool, plan: Plan, held: Held, options: Options) -> str:
    if not plan.units:
        return "holds all of this input already, nothing to do"
    if finished:
        return "this very job is done, nothing to do"
    if held.manifest is None:
        return "to be written"
    documents = f"the {held.manifest.documents:,} documents there"
    return f"to be written {'behind' if options.append else 'instead of'} {documents}"


def _by_kind(plan: Plan) -> dict[tuple[str, str], tuple[int, int]]:
    """Files and their bytes by source and format."""
    found: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for item in plan.inputs:
        kind = f"{item.format}{f' ({item.compression})' if item.compression else ''}"
        count, size = found[item.source, kind]
        found[item.source, kind] = (count + 1, size + item.size)
    return found


def _measure(plan: Plan, tokenizer: Tokenizer, options: Options, choice: Choice) -> Measured:
    """Reads and encodes the beginning of a few units over the plan."""
    engine = engine_for(tokenizer.blob, options.special_tokens, choice.engine)
    around = sum(token is not None for token in (tokenizer.begin_id, tokenizer.end_id))
    rules = UnitRules(
        plan.rules,
        0,
        text_column=plan.reading.text_column,
        framed=around > 0,
        dtype=token_dtype(tokenizer.largest_id),
    )
    units = chosen_units(plan)
    input_bytes, text_bytes, tokens, read, encode = 0.0, 0, 0, 0.0, 0.0
    looked_at, bad = 0, list[BadRow]()
    for unit in units:
        started = time.process_time()
        batch = next(read_slice(unit.slices[0], plan.reading), None)
        if batch is not None:
            looked_at += batch.rows
            bad.extend(batch.bad)
        if batch is None or not len(batch.documents):
            continue
        documents, columns = rules.transform(batch)
        sizes = np.cumsum(pc.binary_length(documents).to_numpy(zero_copy_only=False))
        taken = int(np.searchsorted(sizes, _SAMPLE_BYTES // len(units))) + 1
        part = documents.slice(0, taken)
        share = len(part) / max(len(documents), 1)
        read += (time.process_time() - started) * share
        started = time.process_time()
        rows = Rows(*engine.encode(part), None if columns is None else columns.slice(0, taken))
        _, rows = rules.select(part, rows)
        encode += time.process_time() - started
        input_bytes += batch.done * share
        text_bytes += int(sizes[: len(part)][-1]) if len(part) else 0
        tokens += int(rows.lengths.sum()) + around * len(rows)
    return Measured(input_bytes, text_bytes, tokens, read, encode, looked_at, tuple(bad))
