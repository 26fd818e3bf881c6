"""A token dataset made in this process: the tokenize job's units without its cluster.

Its bytes are those that the job writes with `--engine tokenizers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.choose import Choice
from pipelines.job import make_job
from pipelines.options import Options
from pipelines.prepare import prepare
from pipelines.record import Record
from pipelines.write import run_unit


def tokenize_here(text: Sequence[str], tokenizer: str, folder: Path) -> str:
    """Tokenize `text` with HF tokenizers into `folder`, unit after unit; its uri.

    For tens of megabytes, on a machine without Ray. What is there already is used again.

    Raises:
        StokerError: no such text or tokenizer; `folder` holds something else.
    """
    options = Options(
        inputs=tuple(text), output=str(folder), tokenizer=tokenizer, engine="tokenizers"
    )
    plan, loaded = prepare(options)
    record = Record(options, plan, loaded)
    if record.is_finished():
        return record.store.uri
    choice = Choice("tokenizers", "it was asked for")
    record.begin()
    job = make_job(record, choice)
    for unit in plan.units:
        if unit.number not in record.ledger.units:
            record.add(run_unit(unit, job))
    record.commit(choice)
    return record.store.uri
