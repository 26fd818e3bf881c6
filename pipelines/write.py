"""One unit, from its input's bytes to its receipt: what a Ray task runs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.choose import engine_for
from pipelines.encode import append_end_token
from pipelines.options import ReadOptions
from pipelines.plan import Unit
from pipelines.read import BadRow, read_unit
from shards.errors import StokerError
from shards.format import shard_path
from shards.receipt import Counts, Receipt, ShardRecord, write_receipt
from shards.store import Store, open_store
from shards.writer import build_shard

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
    store = open_store(job.output)
    shards = _Shards(store, job, unit)
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
        shards.add(offsets, ids)
        documents += len(batch.documents)
        text_bytes += len(text_of(batch.documents))
        with_specials += specials.count(batch.documents)
        report(batch.done)
    shards.flush()
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
        shards=tuple(shards.records),
    )
    write_receipt(store, job.plan, receipt)
    return receipt


class _Shards:
    """Documents in, shards out: cut before the first document that doesn't fit any more."""

    def __init__(self, store: Store, job: Job, unit: Unit) -> None:
        self._store, self._job, self._unit = store, job, unit
        self._dtype = np.dtype(job.dtype)
        self._limit = max(1, job.shard_bytes // self._dtype.itemsize)
        self._buffer = _token_buffer(self._limit, self._dtype)
        self._ends: list[npt.NDArray[np.int64]] = []
        self._held = 0
        self.tokens = 0
        self.records: list[ShardRecord] = []

    def add(self, offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.uint32]) -> None:
        """Takes the documents `ids[offsets[i] : offsets[i + 1]]`; each gets its end token here."""
        ended = offsets + np.arange(len(offsets), dtype=np.int64)
        first, documents = 0, len(offsets) - 1
        while first < documents:
            room = ended[first] + self._limit - self._held
            last = int(np.searchsorted(ended, room, side="right")) - 1
            if last > first:
                self._take(offsets[first : last + 1], ids)
                first = last
            elif self._held:
                self.flush()
            else:
                # Longer than a shard may be: a shard, and for once a buffer, of its own.
                self._buffer = np.empty(int(ended[first + 1] - ended[first]), self._dtype)
                self._take(offsets[first : first + 2], ids)
                self.flush()
                self._buffer = _token_buffer(self._limit, self._dtype)
                first += 1

    def _take(self, offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.uint32]) -> None:
        stop = self._held + int(offsets[-1] - offsets[0]) + len(offsets) - 1
        end_id = self._job.end_id
        ended = append_end_token(offsets, ids, end_id, self._buffer[self._held : stop])
        self._ends.append(ended[1:] + self._held)
        self._held = stop

    def flush(self) -> None:
        """Writes what is held as the next shard; nothing held, nothing written."""
        if not self._held:
            return
        offsets = np.concatenate([np.zeros(1, np.int64), *self._ends])
        built = build_shard(offsets, self._buffer[: self._held])
        part = len(self.records)
        path = shard_path(self._job.plan, self._unit.number, part)
        self._store.write(path, memoryview(built.data))
        self.records.append(
            ShardRecord.of(self._job.plan, self._unit.number, part, built, source=self._unit.source)
        )
        self.tokens += self._held
        self._ends, self._held = [], 0


_kept = threading.local()


def _token_buffer(
    size: int, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]
) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """A buffer for `size` tokens, kept for the next unit: fresh pages cost more than filling."""
    buffer = getattr(_kept, "buffer", None)
    if buffer is None or len(buffer) != size or buffer.dtype != dtype:
        buffer = _kept.buffer = np.empty(size, dtype)
    return buffer


class SpecialTexts:
    """Counts documents that hold a special token's text; cheap where its beginning never comes."""

    _MOST_SEARCHES = 4

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._pattern = "|".join(re.escape(text) for text in texts)
        self._beginnings = {text.encode()[:2] for text in texts}

    def count(self, documents: pa.LargeStringArray) -> int:
        """Documents with at least one of the texts."""
        if not self._beginnings or not self._may_occur(text_of(documents)):
            return 0
        found = pc.match_substring_regex(documents, self._pattern)
        return int(pc.sum(found).as_py() or 0)

    def _may_occur(self, data: npt.NDArray[np.uint8]) -> bool:
        firsts = {beginning[0] for beginning in self._beginnings}
        if len(firsts) > self._MOST_SEARCHES or min(map(len, self._beginnings)) < 2:
            return True
        for first in firsts:
            at = np.flatnonzero(data[:-1] == first)
            seconds = [beginning[1] for beginning in self._beginnings if beginning[0] == first]
            if np.isin(data[at + 1], seconds).any():
                return True
        return False


def text_of(documents: pa.LargeStringArray) -> npt.NDArray[np.uint8]:
    """uint8 [bytes]: the text of all documents, one after the other, without a copy."""
    if not len(documents):
        return np.zeros(0, np.uint8)
    offsets = np.frombuffer(documents.buffers()[1], np.int64)
    start, stop = offsets[documents.offset], offsets[documents.offset + len(documents)]
    data = documents.buffers()[2]
    return np.frombuffer(data, np.uint8)[start:stop] if stop > start else np.zeros(0, np.uint8)
