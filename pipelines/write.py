"""One unit, from its input's bytes to its receipt: what a Ray task runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count

import numpy as np

from pipelines.audit import Draw, check
from pipelines.behind import Behind
from pipelines.budget import Budget, unit_exceeds
from pipelines.choose import engine_for
from pipelines.encode import reference_for
from pipelines.fill import Form, Shards
from pipelines.options import ReadOptions
from pipelines.plan import Unit
from pipelines.read import BadRow, read_unit
from pipelines.rows import Rows
from pipelines.rules import UnitRules
from pipelines.special_texts import special_texts
from pipelines.text_buffers import text_of
from shards.errors import StokerError
from shards.manifest import DocumentRules
from shards.receipt import Counts, Receipt, write_receipt
from shards.store import open_store

PLACES_SHOWN = 10


@dataclass(frozen=True)
class Job:
    """What every unit of a job has in common.

    Attributes:
        output: uri of the dataset.
        engine: the one chosen: gigatoken or tokenizers.
        blob: the tokenizer.json.
        special_texts: texts of its special tokens; documents that hold one are counted.
        begin_id, end_id: written before and after each document; None: none is.
        dtype: of the shards' tokens.
        rules: what becomes of documents besides encoding.
        max_bad_rows: a count, a unit with more of which fails, or a share.
        audit: share of documents to encode again with the reference; changes no byte.
    """

    plan: str
    output: str
    engine: str
    blob: str
    special_tokens: str
    special_texts: tuple[str, ...]
    end_id: int | None
    dtype: str
    reading: ReadOptions
    shard_bytes: int
    max_bad_rows: Budget
    begin_id: int | None = None
    rules: DocumentRules = field(default_factory=DocumentRules)
    audit: float = 0.0

    @property
    def form(self) -> Form:
        """Of the shards."""
        dtype = np.dtype(self.dtype)
        return Form(self.plan, dtype, self.shard_bytes, self.begin_id, self.end_id)

    def rules_for(self, unit: Unit) -> UnitRules:
        """The rules at work on one unit."""
        return UnitRules(
            self.rules,
            unit.number,
            text_column=self.reading.text_column,
            framed=self.form.around > 0,
            dtype=self.form.dtype,
        )


class TooManyBadRows(StokerError):
    """More malformed rows than the job may set apart.

    Attributes:
        rows: the first `PLACES_SHOWN` of the unit.
    """

    def __init__(self, rows: tuple[BadRow, ...]) -> None:
        super().__init__(f"more malformed rows than --max-bad-rows allows; the first: {rows[0]}")
        self.rows = rows


def run_unit(unit: Unit, job: Job, report: Callable[[int], None] = lambda done: None) -> Receipt:
    """Tokenizes a unit: its shards, its quarantine, then its receipt, which vouches for both.

    The same unit of the same job writes the same bytes to the same names, wherever and however
    often it runs.

    Args:
        report: called with the unit's input bytes read so far.

    Raises:
        TooManyBadRows: over the budget; no receipt is written.
        StokerError: input damaged or changed, or a store that refuses.
    """
    with Behind() as behind:
        return start_unit(unit, job, behind, report).result()


def start_unit(
    unit: Unit,
    job: Job,
    behind: Behind,
    report: Callable[[int], None] = lambda done: None,
    draw: Draw | None = None,
) -> Future[Receipt]:
    """As `run_unit`; returns when all is encoded, while the last shard may still be written.

    Args:
        draw: of documents for the audit; None: the unit's own.

    Raises:
        TooManyBadRows, StokerError: what reading and encoding meet; those of writing and of the
            audit come from the future.
    """
    draw = draw or Draw(job.plan, unit.number, job.audit)
    store = open_store(job.output)
    rules = job.rules_for(unit)
    shards = {
        split: Shards(store, unit, job.form, behind, split, count(place, len(rules.splits)))
        for place, split in enumerate(rules.splits)
    }
    engine = engine_for(job.blob, job.special_tokens, job.engine)
    specials = special_texts(job.special_texts)
    bad: list[BadRow] = []
    rows = documents = with_specials = text_bytes = 0
    for batch in read_unit(unit, job.reading):
        rows += batch.rows
        bad.extend(batch.bad)
        if unit_exceeds(job.max_bad_rows, len(bad), rows):
            raise TooManyBadRows(tuple(bad[:PLACES_SHOWN]))
        texts, columns = rules.transform(batch)
        encoded = engine.encode(texts)
        draw.take(texts, encoded, rules.places(batch))
        texts, chosen = rules.select(texts, Rows(*encoded, columns))
        for split, some in rules.place(texts, chosen):
            shards[split].add(some)
        documents += len(texts)
        text_bytes += len(text_of(texts))
        with_specials += specials.count(texts)
        report(batch.done)
    for split, some in rules.rest():
        shards[split].add(some)
    for one in shards.values():
        one.flush()

    def finish() -> Receipt:
        check(draw.drawn, partial(reference_for, job.blob, job.special_tokens))
        records = [record for one in shards.values() for record in one.records()]
        if bad:
            lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in bad)
            store.write(f"quarantine/{job.plan}/{unit.number:08d}.jsonl", lines.encode())
        receipt = Receipt(
            unit=unit.number,
            counts=rules.counts
            + Counts(
                rows=rows,
                documents=documents,
                quarantined=len(bad),
                special_documents=with_specials,
                text_bytes=text_bytes,
                tokens=sum(one.tokens for one in shards.values()),
            ),
            shards=tuple(sorted(records, key=lambda record: record.part)),
        )
        write_receipt(store, job.plan, receipt)
        return receipt

    return behind.submit(finish)
