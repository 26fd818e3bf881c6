"""One unit, from its input's bytes to its receipt: what a Ray task runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.audit import Draw
from pipelines.behind import Behind
from pipelines.choose import engine_for
from pipelines.fill import Shards
from pipelines.options import ReadOptions
from pipelines.plan import Unit
from pipelines.read import BadRow, read_unit
from pipelines.special_texts import SpecialTexts, text_of
from shards.errors import StokerError
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
        end_id: written after each document.
        dtype: of the shards' tokens.
        max_bad_rows: a unit with more fails.
        audit: share of documents to encode again with the reference; changes no byte.
    """

    plan: str
    output: str
    engine: str
    blob: str
    special_tokens: str
    special_texts: tuple[str, ...]
    end_id: int
    dtype: str
    reading: ReadOptions
    shard_bytes: int
    max_bad_rows: int
    audit: float = 0.0


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
        draw: of documents for the audit.

    Raises:
        TooManyBadRows, StokerError: what reading and encoding meet; writing's come from the future.
    """
    store = open_store(job.output)
    shards = Shards(store, job.plan, unit, np.dtype(job.dtype), job.shard_bytes, job.end_id, behind)
    engine = engine_for(job.blob, job.special_tokens, job.engine)
    specials = SpecialTexts(job.special_texts)
    bad: list[BadRow] = []
    rows = documents = with_specials = text_bytes = 0
    for batch in read_unit(unit, job.reading):
        rows += len(batch.documents) + len(batch.bad)
        bad.extend(batch.bad)
        if len(bad) > job.max_bad_rows:
            raise TooManyBadRows(tuple(bad[:PLACES_SHOWN]))
        offsets, ids = engine.encode(batch.documents)
        if draw is not None:
            draw.take(batch.documents, (offsets, ids), batch.place)
        shards.add(offsets, ids)
        documents += len(batch.documents)
        text_bytes += len(text_of(batch.documents))
        with_specials += specials.count(batch.documents)
        report(batch.done)
    shards.flush()

    def finish() -> Receipt:
        records = shards.records()
        if bad:
            lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in bad)
            store.write(f"quarantine/{job.plan}/{unit.number:08d}.jsonl", lines.encode())
        receipt = Receipt(
            unit=unit.number,
            counts=Counts(
                rows=rows,
                documents=documents,
                dropped=0,
                quarantined=len(bad),
                special_documents=with_specials,
                text_bytes=text_bytes,
                tokens=shards.tokens,
            ),
            shards=records,
        )
        write_receipt(store, job.plan, receipt)
        return receipt

    return behind.add(finish)
