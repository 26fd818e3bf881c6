"""What no manifest names: files of replaced generations, of jobs given up, of writes cut short.
Plans of packs, which no manifest names, are of the generation whose id is in their name.

Only names that Stoker writes are ever looked at; anything else at an output is somebody else's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from shards.dataset import Dataset, open_dataset
from shards.errors import DatasetError, MissingObject, StokerError
from shards.format import PACKS
from shards.hold import HeldLease, hold_lease
from shards.lease import living_lease
from shards.ledger import shard_number
from shards.manifest import MANIFEST, PLAN_KEY, read_manifest
from shards.store import Entry, Store, open_store

_PLAN = r"(?P<plan>[0-9a-f]{8,64})"
_KINDS = {
    "shards": re.compile(rf"shards/{_PLAN}/(?P<unit>\d{{8,}})-(?P<part>\d{{3,}})\.arrow"),
    "receipts": re.compile(rf"receipts/{_PLAN}/(\d{{8,}}|part-[0-9a-f]{{16}})\.arrow"),
    "quarantine": re.compile(rf"quarantine/{_PLAN}/\d{{8,}}\.jsonl"),
    "tables": re.compile(r"(index|cells|inputs)-[0-9a-f]{16}\.arrow"),
    "tokenizers": re.compile(r"tokenizer-[0-9a-f]{16}\.json"),
    "plans of packs": re.compile(rf"{PACKS}/(?P<dataset>[0-9a-f]{{16}})-[0-9a-f]{{16}}\.arrow"),
    "plan": re.compile(re.escape(PLAN_KEY)),
}
_UNFINISHED = "unfinished writes"
_DELETED_TOGETHER = 1000


@dataclass
class Garbage:
    """What can go, and what an unfinished job would lose.

    Attributes:
        keys: of objects that no manifest names.
        torsos: of writes that were cut short.
        files, bytes: by kind, both kinds of garbage together.
        kept_plan: of a job that was begun and isn't finished; "" if there is none.
        kept_files, kept_bytes: its progress, which stays.
    """

    keys: list[str] = field(default_factory=list, repr=False)
    torsos: list[Entry] = field(default_factory=list, repr=False)
    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    kept_plan: str = ""
    kept_files: int = 0
    kept_bytes: int = 0

    def __len__(self) -> int:
        return len(self.keys) + len(self.torsos)

    def lines(self, uri: str, deleted: bool) -> Iterator[str]:
        """What there was, by kind, and what to do next."""
        if len(self):
            verb = "deleted" if deleted else "no manifest names"
            yield f"{uri}: {verb} {len(self):,} files, {self.bytes.total():,} bytes"
            for kind, files in self.files.items():
                yield f"  {kind:<20}{files:>12,} files {self.bytes[kind]:>20,} bytes"
        else:
            yield f"{uri}: nothing to collect"
        if self.kept_files:
            yield (
                f"  kept: {self.kept_files:,} files, {self.kept_bytes:,} bytes of a job that was "
                f"begun and is not finished (plan {self.kept_plan}): start it again to finish it, "
                "or say --unfinished to give it up"
            )
        if len(self) and not deleted:
            yield "  next: the same with --delete, once nobody reads an earlier generation any more"


def collect_garbage(
    uri: str, *, delete: bool = False, unfinished: bool = False, show_progress: bool = False
) -> Garbage:
    """Finds, and with `delete` removes, what no manifest names at an output.

    Args:
        unfinished: the progress of a job that isn't finished is garbage too, and without any
            manifest everything is.

    Raises:
        StokerError: a job is writing there, or there is no manifest and not `unfinished`.
    """
    store = open_store(uri)
    if delete:
        with hold_lease(store, lambda line: None) as lease:
            garbage = find_garbage(store, unfinished=unfinished)
            _delete(store, garbage, lease, show_progress)
            return garbage
    lease_there = living_lease(store)
    if lease_there is not None:
        raise StokerError(
            f"{store.uri}: a job is writing there ({lease_there}), so what is garbage isn't known "
            "yet: try again at its end"
        )
    return find_garbage(store, unfinished=unfinished)


def find_garbage(store: Store, *, unfinished: bool = False) -> Garbage:
    """Lists an output once; see `collect_garbage`."""
    has_manifest = read_manifest(store) is not None
    if not has_manifest and not unfinished:
        raise DatasetError(
            f"{store.uri} has no {MANIFEST}: what lies there is no dataset yet, and may be the "
            "progress of a job. Run the job to its end, or say --unfinished to give it up"
        )
    dataset = open_dataset(store.uri) if has_manifest else None
    is_named = _named_by(dataset)
    begun = _begun(store)
    going_on = begun if dataset is None or begun not in dataset.manifest.plans else ""
    garbage = Garbage(kept_plan="" if unfinished else going_on)
    for entry in store.list():
        found = _kind_of(entry.key)
        if found is None or is_named(*found):
            continue
        kind, match = found
        plan = going_on if kind == "plan" else match.groupdict().get("plan")
        if plan and plan == garbage.kept_plan:
            garbage.kept_files += 1
            garbage.kept_bytes += entry.size
            continue
        garbage.keys.append(entry.key)
        garbage.files[kind] += 1
        garbage.bytes[kind] += entry.size
    for torso in store.torsos():
        garbage.torsos.append(torso)
        garbage.files[_UNFINISHED] += 1
        garbage.bytes[_UNFINISHED] += torso.size
    return garbage


def _kind_of(key: str) -> tuple[str, re.Match[str]] | None:
    for kind, pattern in _KINDS.items():
        match = pattern.fullmatch(key)
        if match:
            return kind, match
    return None


def _named_by(dataset: Dataset | None) -> Callable[[str, re.Match[str]], bool]:
    """Whether the manifest names an object, directly or by its index."""
    if dataset is None:
        return lambda kind, match: False
    manifest, index = dataset.manifest, dataset.index
    tables = manifest.tables
    names = {tables.index.name, tables.cells.name, tables.inputs.name, manifest.tokenizer.file}
    shards = {
        plan: set(shard_number(index.unit, index.part)[index.plan == number].tolist())
        for number, plan in enumerate(manifest.plans)
    }

    def is_named(kind: str, match: re.Match[str]) -> bool:
        if kind in ("tables", "tokenizers"):
            return match[0] in names
        if kind == "plans of packs":
            return match["dataset"] == dataset.id
        if kind == "plan":
            return _begun(dataset.store) in shards
        if kind == "shards":
            number = shard_number(int(match["unit"]), int(match["part"]))
            return number in shards.get(match["plan"], ())
        return match["plan"] in shards

    return is_named


def _begun(store: Store) -> str:
    """The plan whose job was begun last at an output; "" if that can't be told."""
    try:
        return str(json.loads(store.read(PLAN_KEY))["plan"])
    except (MissingObject, ValueError, KeyError, TypeError):
        return ""


def _delete(store: Store, garbage: Garbage, lease: HeldLease, show: bool) -> None:
    with tqdm(total=len(garbage), unit="file", desc="gc", disable=not show, leave=False) as bar:
        for keys in _together(garbage.keys):
            lease.check()
            store.delete_many(keys)
            bar.update(len(keys))
        for torso in garbage.torsos:
            lease.check()
            store.delete_torso(torso)
            bar.update()


def _together(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _DELETED_TOGETHER):
        yield keys[start : start + _DELETED_TOGETHER]
