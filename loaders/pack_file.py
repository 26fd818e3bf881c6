"""A plan of packs as a file: written beside the data or into a folder, believed by nobody.

Its name is made from what it is a plan of, so that whoever opens the dataset finds it; inside are
the same facts once more and a checksum.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from loaders.form import Packing
from loaders.opening import read_whole
from loaders.pack_plan import Ints, PackPlan
from loaders.source import open_source
from shards.dataset import Stream
from shards.errors import DatasetError, MissingObject
from shards.format import packs_path, xxh3
from shards.store import Store, open_store
from shards.writer import to_ipc

# Changes with how documents are packed: a plan of another version is not found.
PACKING_VERSION = 1
_ABOUT, _TOKEN = b"stoker-packs", "token"
_MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class PackKey:
    """What a plan is a plan of."""

    dataset: str
    split: str
    source: str | None
    packing: Packing
    seq_len: int
    version: int = PACKING_VERSION

    def path(self, pack_dir: str | None) -> str:
        """Key of the plan's file below the dataset (None), or below the folder it is kept in."""
        about = json.dumps(asdict(self), sort_keys=True).encode()
        path = packs_path(self.dataset, hashlib.sha256(about).hexdigest()[:16])
        return path if pack_dir is None else path.rpartition("/")[2]


@dataclass(frozen=True)
class Packs:
    """A plan, and a name for what is in it: the order of rows is another with another plan."""

    plan: PackPlan
    id: str


def write_packs(stream: Stream, key: PackKey, plan: PackPlan, pack_dir: str | None) -> str:
    """Writes a plan of a stream, into `pack_dir` or beside the data; its uri. The same plan always
    makes the same bytes.
    """
    about = {
        **asdict(key),
        "rows": plan.rows,
        "last_rows": plan.last_rows,
        "xxh3": f"{xxh3(plan.token):016x}",
    }
    batch = pa.record_batch({_TOKEN: pa.array(plan.token)})
    text = json.dumps(about, sort_keys=True)
    store, path = _store(stream, pack_dir), key.path(pack_dir)
    store.write(path, to_ipc(batch.replace_schema_metadata({_ABOUT: text})))
    return f"{store.uri}/{path}"


def read_packs(stream: Stream, key: PackKey, pack_dir: str | None) -> Packs:
    """The plan of a stream, from `pack_dir` or beside the data.

    Raises:
        DatasetError: there is none, the message says the command that makes it; or its file is
            damaged, or of something else.
    """
    store, path = _store(stream, pack_dir), key.path(pack_dir)
    where = f"{store.uri}/{path}"
    try:
        data = read_whole(open_source(store.uri), path)
    except MissingObject:
        raise DatasetError(
            f'packing="{key.packing}" needs a plan of which documents go together, and there is no '
            f"{where}. Make it once: {command(stream.dataset.uri, key, pack_dir)}"
        ) from None
    try:
        about, token = _parse(data)
        plan = _checked(about, token, key, stream)
    except (ValueError, KeyError, TypeError, pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{where} is no plan of this dataset's packs: {error}. Delete it and make it again: "
            f"{command(stream.dataset.uri, key, pack_dir)}"
        ) from error
    return Packs(plan, str(about["xxh3"]))


def _store(stream: Stream, pack_dir: str | None) -> Store:
    return stream.dataset.store if pack_dir is None else open_store(pack_dir)


def command(uri: str, key: PackKey, pack_dir: str | None) -> str:
    """What a person types to make the plan."""
    words = ["python", "-m", "loaders", "pack", uri, "--seq-len", str(key.seq_len)]
    if key.packing != "best_fit":
        words += ["--packing", key.packing]
    if key.split != "train":
        words += ["--split", key.split]
    if key.source is not None:
        words += ["--source", key.source]
    if pack_dir is not None:
        words += ["--pack-dir", pack_dir]
    return shlex.join(words)


def _parse(data: bytes) -> tuple[dict[str, Any], Ints]:
    reader = pa.ipc.open_file(pa.BufferReader(data))
    if reader.num_record_batches != 1:
        raise ValueError(f"{reader.num_record_batches} record batches")
    batch = reader.get_batch(0)
    batch.validate(full=True)
    column = batch.column(_TOKEN)
    if column.type != pa.int64() or column.null_count:
        raise ValueError(f"{_TOKEN} is {column.type}")
    about = json.loads((batch.schema.metadata or {})[_ABOUT])
    return about, cast(Ints, np.from_dlpack(column))


def _checked(about: dict[str, Any], token: Ints, key: PackKey, stream: Stream) -> PackPlan:
    for name, value in asdict(key).items():
        if about[name] != value:
            raise ValueError(f"it is of {name} {about[name]!r}, not {value!r}")
    if about["xxh3"] != f"{xxh3(token):016x}":
        raise ValueError("its checksum differs")
    rows, last_rows = about["rows"], about["last_rows"]
    if type(rows) is not int or type(last_rows) is not int or not 1 <= rows <= _MOST_ROWS:
        raise ValueError(f"{rows!r} rows in a pack, {last_rows!r} in the last")
    size = np.diff(token)
    if not (
        len(token) >= 2
        and token[0] == 0
        and token[-1] == stream.tokens
        and size.min() >= 1
        and size.max() <= rows * key.seq_len
        and 1 <= last_rows <= rows
    ):
        raise ValueError(f"its packs don't make up the {stream.tokens} tokens")
    return PackPlan(key.packing, key.seq_len, rows, last_rows, token)
