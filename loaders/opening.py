"""Opening a dataset with the fetcher's patience: deadlines, second reads, retries.

Two rounds of reads: the manifest; the index and the table of checksums, which it names, side by
side. The first blocks are a third one. No object is asked for its size, nothing is listed.
"""

from collections.abc import Sequence

import pyarrow as pa

from loaders.bring import bring
from loaders.source import Read, Source
from shards.dataset import Dataset, Index, no_dataset
from shards.errors import CorruptShard, DatasetError, MissingObject, StoreError
from shards.manifest import MANIFEST, PLAN_KEY, Manifest, parse_manifest
from shards.store import open_store
from shards.tables import CellTable, TableInfo, parse_table

# What the AWS CRT reads with one GET.
_STRETCH = 8 << 20
# 50 million shards. The manifest isn't believed: its word alone must not fill the memory.
_MOST_INDEX_BYTES = 4 << 30


def open_dataset(uri: str, source: Source) -> Dataset:
    """As `shards.dataset.open_dataset`, but reads through `source`, checksums too if they are held.

    Raises:
        DatasetError: no dataset there, or one whose tables contradict each other.
        StoreError: the store can't be reached or refuses.
    """
    store = open_store(uri)
    manifest = _manifest(source)
    index, cells = _index(manifest, source), CellTable(store, manifest.tables.cells)
    tables = [index, *_wanted(cells)]
    _bring(source, tables)
    dataset = Dataset(store, manifest, Index.of(index.rows, manifest, source.uri))
    for table in tables[1:]:
        dataset.cells.hold(table.rows)
    return dataset


def hold_checksums(cells: CellTable, source: Source) -> None:
    """Brings the table of checksums into this process, if it is small enough and not here yet."""
    for table in _wanted(cells):
        _bring(source, [table])
        cells.hold(table.rows)


class _Table:
    """A whole table to bring (see `loaders.attempts.Part`), in stretches."""

    def __init__(self, info: TableInfo, uri: str) -> None:
        self._info = info
        self._uri = uri
        starts = range(0, info.bytes, _STRETCH)
        self.reads = [Read(info.name, at, min(at + _STRETCH, info.bytes)) for at in starts]
        self.rows: pa.RecordBatch

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        """Raises CorruptShard: bytes other than the manifest promises, worth reading again."""
        try:
            self.rows = parse_table(b"".join(data), self._info, self._uri)
        except DatasetError as error:
            raise CorruptShard(str(error)) from error


class _Stretch:
    """Bytes of an object of unknown length, as many of `_STRETCH` as there are."""

    def __init__(self, key: str, start: int) -> None:
        self.reads = [Read(key, start, start + _STRETCH, at_most=True)]
        self.data = b""

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        self.data = bytes(data[0])


def read_whole(source: Source, key: str) -> bytes:
    """An object whose length nobody has said; of 8 MiB and more, one stretch after the other.

    Raises:
        MissingObject: no such object.
        StoreError: the store can't be reached or refuses.
    """
    data = b""
    while len(data) % _STRETCH == 0:
        stretch = _Stretch(key, len(data))
        bring(source, [stretch])
        data += stretch.data
        if not stretch.data:
            break
    return data


def _manifest(source: Source) -> Manifest:
    try:
        data = read_whole(source, MANIFEST)
    except MissingObject:
        raise no_dataset(source.uri, begun=_is_begun(source)) from None
    return parse_manifest(data, source.uri)


def _is_begun(source: Source) -> bool:
    """Whether a job wrote its plan there."""
    try:
        read_whole(source, PLAN_KEY)
    except StoreError:
        return False
    return True


def _index(manifest: Manifest, source: Source) -> _Table:
    info = manifest.tables.index
    if info.bytes > _MOST_INDEX_BYTES:
        raise DatasetError(
            f"{source.uri}/{MANIFEST} promises an index of {info.bytes} bytes, more than any has "
            f"({_MOST_INDEX_BYTES})"
        )
    return _Table(info, source.uri)


def _wanted(cells: CellTable) -> list[_Table]:
    return [_Table(cells.info, cells.store.uri)] if cells.wanted_whole else []


def _bring(source: Source, tables: Sequence[_Table]) -> None:
    try:
        bring(source, tables)
    except CorruptShard as error:
        raise DatasetError(str(error)) from error
