"""`--transform module:function`: a person's own Table -> Table, in the task that tokenizes.

The function gets a few MiB of rows at a time, as a `pa.Table` of the text column (large_string, no
nulls) and the kept columns, and returns a Table of the same columns with as many rows as it likes.
Where a batch begins is not promised, so what it does to a row must not depend on the others.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipelines.read import is_utf8
from shards.errors import StokerError
from shards.manifest import DocumentRules

Function = Callable[[pa.Table], pa.Table]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Transform:
    """A function by its name, and the source that it is to have everywhere.

    Attributes:
        name: `module:function`.
        sha256: of the source of the module, and of that alone: what it imports is not in it.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, rules: DocumentRules) -> Transform | None:
        """The one that a job's rules name, if they do."""
        if rules.transform is None or rules.transform_sha256 is None:
            return None
        return cls(rules.transform, rules.transform_sha256)


def find_transform(name: str) -> Transform:
    """The transform that `name` means here, on the driver: imported once, to find mistakes early.

    Raises:
        StokerError: not `module:function`, or nothing of this name can be imported and called.
    """
    if not _NAME.fullmatch(name):
        raise StokerError(f"--transform {name}: write it as module:function")
    where = "here: put its folder on PYTHONPATH, or into the --working-dir of ray job submit"
    module = _import(name, where)
    _function(name, module)
    return Transform(name, _digest(name, module))


@lru_cache(maxsize=4)
def load_transform(transform: Transform) -> Function:
    """The function, on a worker.

    Raises:
        StokerError: the worker can't import it, or has another source than the driver.
    """
    known = transform.name.partition(":")[0] in sys.modules
    where = (
        f"on {socket.gethostname()}, a worker: send it along with ray job submit --working-dir, or "
        "put it on PYTHONPATH of every node before Ray starts"
    )
    module = _import(transform.name, where)
    if known:
        # A worker may have imported it for an earlier job.
        module = importlib.reload(module)
    if _digest(transform.name, module) != transform.sha256:
        raise StokerError(
            f"--transform {transform.name}: {module.__file__} on {socket.gethostname()} is not the "
            "one that the job was planned with: give every node the same, and start again"
        )
    return _function(transform.name, module)


def apply_transform(
    transform: Transform,
    documents: pa.LargeStringArray,
    columns: pa.RecordBatch | None,
    text: str,
) -> tuple[pa.LargeStringArray, pa.RecordBatch | None]:
    """What the transform makes of a batch: documents, and their kept columns if there are any.

    Args:
        documents: [rows], no nulls.
        columns: the kept columns, [rows]; None without any.
        text: the name under which the function finds the documents.

    Raises:
        StokerError: it failed, or gave back something else than it should; names the function.
    """
    if not len(documents):
        return documents, columns
    kept = pa.schema([]) if columns is None else columns.schema
    given = [] if columns is None else columns.columns
    function = load_transform(transform)
    try:
        result = function(pa.table([documents, *given], names=[text, *kept.names]))
    except Exception as error:
        raise StokerError(
            f"--transform {transform.name} failed: {type(error).__name__}: {error}"
        ) from error
    problem = _problem(result, text, kept)
    if problem:
        raise StokerError(f"--transform {transform.name} {problem}")
    found = _whole(result[text], pa.large_string())
    if not is_utf8(found):
        raise StokerError(f"--transform {transform.name} gave back text that is not UTF-8")
    if columns is None:
        return found, None
    arrays = [_whole(result[field.name], field.type) for field in kept]
    return found, pa.record_batch(arrays, schema=kept)


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column of a Table as one array."""
    return pa.concat_arrays(column.cast(kind).chunks or [pa.array([], kind)])


def _problem(result: object, text: str, kept: pa.Schema) -> str:
    """What is wrong with what a function gave back, in words; "" when it is as it should be."""
    if not isinstance(result, pa.Table):
        return f"gave back a {type(result).__name__}, not a pyarrow.Table"
    for name in (text, *kept.names):
        if result.column_names.count(name) != 1:
            has = ", ".join(result.column_names) or "none"
            return f"gave back no column {name!r}, or more than one: it has {has}"
    extra = [name for name in result.column_names if name != text and name not in kept.names]
    if extra:
        return f"gave back columns that nothing keeps: {', '.join(extra)}. Drop them"
    kind = result.schema.field(text).type
    if not _is_text(kind):
        return f"gave back column {text!r} as {kind}, not text"
    if result[text].null_count:
        return f"gave back {result[text].null_count:,} nulls in column {text!r}: drop those rows"
    for field in kept:
        kind = result.schema.field(field.name).type
        if kind != field.type and not (_is_text(kind) and _is_text(field.type)):
            return (
                f"gave back column {field.name!r} as {kind}, it was {field.type}: kept columns "
                "keep their type"
            )
    return ""


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(value) for test in tests)


def _import(name: str, where: str) -> ModuleType:
    module = name.partition(":")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        raise StokerError(
            f"--transform {name}: there is no module {error.name!r} to import {where}"
        ) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> StokerError:
    return StokerError(
        f"--transform {name}: its module fails when it is imported: {type(error).__name__}: {error}"
    )


def _function(name: str, module: ModuleType) -> Function:
    found: Any = getattr(module, name.partition(":")[2], None)
    if not callable(found):
        raise StokerError(
            f"--transform {name}: {module.__file__} has no function {name.partition(':')[2]!r}"
        )
    return found  # type: ignore[no-any-return]


def _digest(name: str, module: ModuleType) -> str:
    file = module.__file__
    if file is None or not file.endswith(".py"):
        raise StokerError(
            f"--transform {name}: its module has no source file (.py), whose hash is to be part of "
            "the plan"
        )
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
