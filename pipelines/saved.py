"""Folders that Hugging Face datasets' `save_to_disk` wrote: their data files, and no others."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any

from shards.errors import StokerError
from shards.store import open_store

Entry = tuple[str, int, str]

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def data_files(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries of a listing without what a saved dataset keeps beside its data.

    Such a folder holds `state.json`, which names its data files; others ending in .arrow are what
    `datasets` cached there. A folder of several splits is refused: tokenized together, the test
    split would be trained on.

    Args:
        entries: (uri, size, etag).

    Raises:
        StokerError: several splits, a data file that is not there, or a damaged `state.json`.
    """
    listed = list(entries)
    names = {uri for uri, _, _ in listed}
    folders = {
        posixpath.dirname(uri)
        for uri in names
        if posixpath.basename(uri) == STATE and f"{posixpath.dirname(uri)}/{INFO}" in names
    }
    _refuse_splits(names, folders)
    wanted = {folder: _named_files(folder, names) for folder in sorted(folders)}
    for entry in listed:
        folder, name = posixpath.split(entry[0])
        beside = name in (STATE, INFO) or name.endswith(".arrow")
        if folder in folders and beside and entry[0] not in wanted[folder]:
            continue
        if name == SPLITS and any(posixpath.dirname(one) == folder for one in folders):
            continue
        yield entry


def _refuse_splits(names: set[str], folders: set[str]) -> None:
    for uri in sorted(name for name in names if posixpath.basename(name) == SPLITS):
        root = posixpath.dirname(uri)
        splits = sorted(folder for folder in folders if posixpath.dirname(folder) == root)
        if len(splits) > 1:
            found = ", ".join(posixpath.basename(split) for split in splits)
            raise StokerError(
                f"{root} is a saved dataset of several splits ({found}): name the ones to "
                f"tokenize, for example --input {splits[-1]}"
            )


def _named_files(folder: str, names: set[str]) -> set[str]:
    """The uris of the data files that the folder's `state.json` names."""
    uri = f"{folder}/{STATE}"
    try:
        state: Any = json.loads(_read(uri))
        files = {f"{folder}/{entry['filename']}" for entry in state["_data_files"]}
        indices = state.get("_indices_data_files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StokerError(f"{uri} is damaged, or none of a saved dataset: {error!r}") from error
    if indices:
        raise StokerError(
            f"{folder} was saved by an old version of datasets, with a selection of rows beside "
            "the data: load it and save it again with a newer one"
        )
    missing = sorted(files - names)
    if missing:
        raise StokerError(f"{missing[0]} is missing: {uri} names it. Restore it first")
    return files


def _read(uri: str) -> bytes:
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return open_store(f"s3://{bucket}").read(key)
    try:
        with open(os.fspath(uri), "rb") as file:
            return file.read()
    except OSError as error:
        raise StokerError(f"{uri} can't be read: {error.strerror}") from error
