"""The driver: plan, engine, units as Ray Data tasks, receipts, commit. The job as a function."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from pipelines.append import Held
from pipelines.choose import Choice, choose_engine
from pipelines.connect import cores, ray_cluster
from pipelines.encode import LONGEST_FOR_REFERENCE
from pipelines.interrupt import Interrupted, interruptible
from pipelines.options import Options
from pipelines.prepare import prepare
from pipelines.progress import Progress
from pipelines.read import check_columns
from pipelines.record import Record
from pipelines.report import report_key, write_report
from pipelines.sample import sample_documents
from pipelines.summary import Summary
from pipelines.tasks import Outcome, run_units
from pipelines.usage import Stopwatch
from pipelines.write import Job
from shards.errors import StokerError
from shards.format import token_dtype
from shards.hold import HeldLease, hold_lease
from shards.patience import long_patience

__all__ = ["Interrupted", "Summary", "run"]


def run(options: Options, *, show_progress: bool = False) -> Summary:
    """Tokenizes what `options` say, from wherever an earlier run of the same job stopped.

    Joins a running Ray cluster or starts Ray on this machine, see `connect.ray_cluster`. A second
    run after the end does nothing.

    Args:
        show_progress: a bar and a few lines on stderr.

    Raises:
        StokerError: in words for people. A dataset without its manifest doesn't exist, so nothing
            half-done is visible.
        Interrupted: SIGINT or SIGTERM came.
    """
    if options.dry_run:
        raise StokerError("a dry run writes nothing: pipelines.dry_run.preview does it, not run")
    watch = _Watch(show_progress)
    with interruptible():
        held = Held.at(options.output)
        plan, tokenizer = prepare(options, held)
        record = Record(options, plan, tokenizer, held)
        if record.is_finished():
            return _summary(record, watch, cluster="")
        pieces = (piece for unit in plan.units for piece in unit.slices)
        check_columns(pieces, plan.reading)
        with hold_lease(record.store, watch.say) as lease, long_patience():
            record.begin()
            if record.skipped:
                watch.say(f"skipping {record.skipped} of {len(plan.units)} units, done before")
            with ThreadPoolExecutor(1, "choose") as pool:
                # Seconds of work here, while Ray's start is seconds of waiting for others.
                choice = pool.submit(_choose, record)
                cluster = _run_missing(record, choice, lease, watch)
                lease.confirm()
                record.commit(choice.result())
            return _summary(record, watch, cluster)


class _Watch(Stopwatch):
    """The clock of a run, and its voice: lines on stderr where a person wants them."""

    def __init__(self, show: bool) -> None:
        super().__init__()
        self.show = show

    def say(self, line: str) -> None:
        if self.show:
            print(line, file=sys.stderr)


def _choose(record: Record) -> Choice:
    options = record.options
    sample = sample_documents(record.plan)
    return choose_engine(options.engine, record.tokenizer, options.special_tokens, sample)


def make_job(record: Record, choice: Choice) -> Job:
    """What every task of a job gets."""
    options, tokenizer = record.options, record.tokenizer
    longest = LONGEST_FOR_REFERENCE if choice.engine == "tokenizers" else None
    return Job(
        plan=record.plan.id,
        output=options.output,
        engine=choice.engine,
        blob=tokenizer.blob,
        special_tokens=options.special_tokens,
        special_texts=tokenizer.special_texts,
        begin_id=tokenizer.begin_id,
        end_id=tokenizer.end_id,
        dtype=token_dtype(tokenizer.largest_id).name,
        reading=replace(record.plan.reading, longest=longest),
        rules=record.plan.rules,
        shard_bytes=options.shard_bytes,
        max_bad_rows=options.max_bad_rows,
        audit=options.audit if choice.engine == "gigatoken" else 0.0,
    )


def _run_missing(record: Record, choice: Future[Choice], lease: HeldLease, watch: _Watch) -> str:
    """Runs the units that are not done; returns in words where."""
    missing = [unit for unit in record.plan.units if unit.number not in record.ledger.units]
    if not missing:
        return "every unit was done before"
    sizes = {unit.number: unit.bytes for unit in missing}
    total = sum(unit.bytes for unit in record.plan.units)
    with ray_cluster() as cluster, interruptible():
        chosen = choice.result()
        watch.say(f"{cluster}; engine {chosen.engine}: {chosen.reason}")
        job = make_job(record, chosen)
        watch.tasks_start(cores())
        with Progress(total, total - sum(sizes.values()), watch.show) as progress:
            outcomes = run_units(missing, job, progress.meter)
            with closing(outcomes):
                for outcome in outcomes:
                    lease.check()
                    _take(record, outcome)
                    if outcome.receipt is not None:
                        watch.add(outcome, sizes[outcome.unit])
            watch.tasks_end(cores(), progress.retries())
    return cluster


def _take(record: Record, outcome: Outcome) -> None:
    if outcome.receipt is not None:
        record.add(outcome.receipt)
    elif outcome.bad_rows:
        record.stop(outcome.unit, outcome.bad_rows)
    else:
        if os.environ.get("STOKER_DEBUG") == "1":
            print(outcome.trace, file=sys.stderr)
        raise StokerError(outcome.error)


def _summary(record: Record, watch: _Watch, cluster: str) -> Summary:
    """Counts what there is; writes the report unless there was nothing to do."""
    summary = Summary(
        output=record.store.uri,
        plan=record.plan.id,
        engine=record.choice.engine,
        reason=record.choice.reason,
        counts=record.counts,
        totals=record.totals,
        rules=record.plan.rules,
        units=len(record.plan.units),
        skipped=record.skipped,
        usage=watch.usage(),
        cluster=cluster,
        log=report_key(record.plan.id) if cluster else "",
    )
    if cluster:
        write_report(record.store, summary)
    return summary
