"""Files -> work units, from listings alone, and the id of a job: what its bytes depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from itertools import groupby, pairwise
from operator import attrgetter, itemgetter
from typing import TypeAlias

from pipelines.inputs import Input
from pipelines.options import Options, ReadOptions
from shards.manifest import DocumentRules

SMALLEST_UNIT = 4 << 20
LARGEST_UNIT = 256 << 20
_UNITS_AIMED_AT = 64

_NO_RULES = DocumentRules()

# Libraries whose version can change a shard's bytes.
LIBRARIES = ("gigatoken", "pyarrow", "tokenizers")


@dataclass(frozen=True, slots=True)
class Slice:
    """A byte range of a file. A line, or a Parquet row group, belongs to the slice it starts in.

    Attributes:
        start, stop: bytes; 0 and `size` for a file that can't be divided.
        size, etag: the whole file's, when it was planned.
        format, compression: as `Input` has them.
        most: documents to take from it at most; None: all.
    """

    uri: str
    start: int
    stop: int
    size: int
    etag: str
    format: str
    compression: str
    most: int | None = None

    @property
    def bytes(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        whole = self.bytes == self.size
        return self.uri if whole else f"{self.uri} bytes {self.start}-{self.stop}"


# A slice and the source it belongs to.
Piece: TypeAlias = tuple[str, Slice]


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task tokenizes: slices of one source, read in order."""

    number: int
    source: str
    slices: tuple[Slice, ...]

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for piece in self.slices)

    def __str__(self) -> str:
        more = f" and {len(self.slices) - 1} more" if len(self.slices) > 1 else ""
        return f"unit {self.number} ({self.slices[0]}{more})"


@dataclass(frozen=True)
class Plan:
    """A job: its units in order, and its id.

    Attributes:
        id: 16 hex digits, a hash of `describe`: two jobs with one id write the same bytes.
        unit_bytes: input bytes a unit was cut to.
        reading: how the inputs become rows.
        rules: what becomes of documents besides encoding; also in `settings`.
        libraries: versions of what can change a shard's bytes.
    """

    id: str
    inputs: tuple[Input, ...]
    units: tuple[Unit, ...]
    unit_bytes: int
    settings: Mapping[str, object]
    libraries: Mapping[str, str]
    reading: ReadOptions = field(default_factory=ReadOptions)
    rules: DocumentRules = field(default_factory=DocumentRules)


def make_plan(
    inputs: Sequence[Input],
    options: Options,
    fingerprint: str,
    end_id: int | None,
    format_version: int,
    *,
    begin_id: int | None = None,
    reading: ReadOptions | None = None,
    rules: DocumentRules = _NO_RULES,
    pieces: Sequence[Piece] | None = None,
) -> Plan:
    """The plan of `options` over `inputs`, the same for the same arguments, wherever it runs.

    Args:
        fingerprint: of the tokenizer as it will be used.
        end_id, begin_id: tokens written after and before each document; None: none is.
        format_version: of the shards written.
        reading: of the inputs; None: as the options have it, no columns kept.
        rules: what becomes of documents besides encoding.
        pieces: what to read of the inputs; None: all.
    """
    total = sum(item.size for item in inputs)
    if pieces is not None:
        total = sum(piece.bytes for _, piece in pieces)
    unit_bytes = options.unit_bytes or automatic_unit_bytes(total)
    settings: dict[str, object] = {
        "tokenizer": fingerprint,
        "end_id": end_id,
        "begin_id": begin_id,
        "rules": rules.model_dump(),
        "special_tokens": options.special_tokens,
        "engine": options.engine,
        "text_column": options.text_column,
        "text_split": options.text_split,
        "separator": options.separator,
        "unit_bytes": unit_bytes,
        "shard_bytes": options.shard_bytes,
        "format_version": format_version,
    }
    libraries = {name: version(name) for name in LIBRARIES}
    digest = hashlib.sha256(_canonical({"settings": settings, "libraries": libraries}))
    names = [field.name for field in fields(Input)]
    values = attrgetter(*names)
    for item in inputs:
        digest.update(_canonical(dict(zip(names, values(item), strict=True))))
    return Plan(
        id=digest.hexdigest()[:16],
        inputs=tuple(inputs),
        units=tuple(
            cut_units(inputs, unit_bytes, options.reading)
            if pieces is None
            else join_pieces(pieces, unit_bytes)
        ),
        unit_bytes=unit_bytes,
        settings=settings,
        libraries=libraries,
        reading=reading or options.reading,
        rules=rules,
    )


def automatic_unit_bytes(total: int) -> int:
    """Input bytes a unit: a 64th of the whole, whatever the number of cores."""
    return min(max(total // _UNITS_AIMED_AT, SMALLEST_UNIT), LARGEST_UNIT)


def cut_units(
    inputs: Iterable[Input], unit_bytes: int, reading: ReadOptions | None = None
) -> Iterator[Unit]:
    """Units of about `unit_bytes`: large files in ranges, small ones together, sources apart."""
    return join_pieces(cut_pieces(inputs, unit_bytes, reading or ReadOptions()), unit_bytes)


def cut_pieces(inputs: Iterable[Input], piece_bytes: int, reading: ReadOptions) -> Iterator[Piece]:
    """The inputs in slices of at most about `piece_bytes` where they can be divided."""
    for file in inputs:
        for piece in _cut(file, piece_bytes, reading):
            yield file.source, piece


def join_pieces(pieces: Iterable[Piece], unit_bytes: int) -> Iterator[Unit]:
    """Units of about `unit_bytes` of neighbouring slices of one source."""
    number = 0
    for source, group in groupby(pieces, key=itemgetter(0)):
        held: list[Slice] = []
        filled = 0
        for _, piece in group:
            if held and filled + piece.bytes > unit_bytes:
                yield Unit(number, source, tuple(held))
                number, held, filled = number + 1, [], 0
            held.append(piece)
            filled += piece.bytes
        if held:
            yield Unit(number, source, tuple(held))
            number += 1


def _cut(file: Input, unit_bytes: int, reading: ReadOptions) -> Iterator[Slice]:
    count = -(-file.size // unit_bytes) if is_divisible(file, reading) and file.size else 1
    borders = [file.size * i // count for i in range(count + 1)]
    for start, stop in pairwise(borders):
        yield Slice(file.uri, start, stop, file.size, file.etag, file.format, file.compression)


def is_divisible(file: Input, reading: ReadOptions) -> bool:
    """Whether the file may be read in ranges: not where only its start tells what ends where."""
    if file.compression:
        return False
    # Where a separator may overlap itself, which of two matches counts depends on all before.
    return file.format != "text" or (bool(reading.ending) and not may_overlap(reading.ending))


def may_overlap(ending: bytes) -> bool:
    """Whether two matches of `ending` in a text may share bytes, as of `aa` in `aaa`."""
    return any(ending.startswith(ending[i:]) for i in range(1, len(ending)))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
