"""What an output held when the job began, and which inputs `--append` finds new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.columns import split_type
from pipelines.inputs import Input
from shards.dataset import Dataset, open_dataset
from shards.errors import StokerError
from shards.format import token_dtype
from shards.ledger import ListedShards
from shards.manifest import DocumentRules, Manifest, TokenizerInfo, read_manifest
from shards.store import open_store
from shards.tables import read_table

_SHOWN = 3
_MUST_AGREE = ("fingerprint", "begin_token", "end_token", "special_tokens")


@dataclass(frozen=True)
class Held:
    """The dataset that an output holds; None: none yet.

    Attributes:
        dataset: as it was when the job began. A job that continues or replaces it commits only if
            it is still the one that lies there.
    """

    dataset: Dataset | None

    @classmethod
    def at(cls, uri: str) -> Held:
        """What lies at `uri`."""
        return cls(open_dataset(uri) if read_manifest(open_store(uri)) is not None else None)

    @property
    def manifest(self) -> Manifest | None:
        return self.dataset.manifest if self.dataset is not None else None

    def check_fits(self, tokenizer: TokenizerInfo) -> None:
        """Raises StokerError unless tokens of this tokenizer can follow those that are there."""
        if self.dataset is None:
            return
        held, words = self.dataset.manifest, []
        dtype = token_dtype(tokenizer.vocab_size - 1).name
        if held.dtype != dtype:
            words.append(f"its tokens are {held.dtype}, these would be {dtype}")
        for name in _MUST_AGREE:
            old, new = getattr(held.tokenizer, name), getattr(tokenizer, name)
            if old != new:
                words.append(_differ(name, held.tokenizer, tokenizer))
        if words:
            raise StokerError(
                f"{self.dataset.uri} can't be appended to: {'; '.join(words)}. Give the same "
                "tokenizer and options as then, or another --output"
            )

    def check_rules(self, rules: DocumentRules) -> None:
        """Raises StokerError unless shards of these rules can follow those that are there."""
        if self.dataset is None:
            return
        manifest, refusal = self.dataset.manifest, f"{self.dataset.uri} can't be appended to"
        for held in (manifest.rules.get(plan, DocumentRules()) for plan in manifest.plans):
            if held.limit is not None:
                raise StokerError(
                    f"{refusal}: of its inputs it holds just the first {held.limit:,} documents "
                    "(--limit). Choose another --output, or --overwrite"
                )
            if held.columns != rules.columns:
                old, new = (_columns(one.columns) for one in (held, rules))
                raise StokerError(
                    f"{refusal}: the columns it keeps are {old}, these would be {new}. Give the "
                    "same --keep-columns as then, or another --output"
                )

    def column_types(self, names: Sequence[str]) -> pa.Schema | None:
        """The types its columns have, for those who keep them again; None: they'd be others.

        Args:
            names: as a person writes them, each with or without a type.
        """
        if self.dataset is None:
            return None
        manifest, asked = self.dataset.manifest, dict(map(split_type, names))
        rules = manifest.rules.get(manifest.plans[-1], DocumentRules())
        if list(asked) != list(rules.columns):
            return None
        try:
            types = {name: pa.type_for_alias(kind) for name, kind in rules.columns.items()}
        except ValueError:
            # One that has no short name: the first new file tells it again.
            return None
        return pa.schema([(name, asked[name] or kind) for name, kind in types.items()])

    def new(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs that the dataset doesn't hold, in their order.

        Raises:
            StokerError: one that it holds has changed since, or had another label.
        """
        if self.dataset is None:
            return list(inputs)
        table = read_table(self.dataset.store, self.dataset.manifest.tables.inputs)
        columns = (table.column(name).to_pylist() for name in ("uri", "size", "etag", "source"))
        known = {uri: rest for uri, *rest in zip(*columns, strict=True)}
        new, changed, relabelled = [], [], []
        for item in inputs:
            held = known.get(item.uri)
            if held is None:
                new.append(item)
            elif held[:2] != [item.size, item.etag]:
                changed.append(f"{item.uri} (was {held[0]} bytes, etag {held[1]})")
            elif held[2] != item.source:
                relabelled.append(f"{item.uri} (was {held[2]!r}, now {item.source!r})")
        if changed:
            raise StokerError(
                f"{self.dataset.uri} holds other versions of {_some(changed)}. What was tokenized "
                "stays: give changed text a new name to append it, or tokenize everything anew, "
                "with --overwrite or into another --output"
            )
        if relabelled:
            raise StokerError(
                f"{self.dataset.uri} holds under another label {_some(relabelled)}: give the "
                "label as then, or tokenize everything anew into another --output"
            )
        return new

    def missing_shards(self) -> list[str]:
        """Keys of shards that aren't there in their full size; one listing a plan."""
        assert self.dataset is not None
        index = self.dataset.index
        missing: list[str] = []
        for number, plan in enumerate(self.dataset.manifest.plans):
            units = 1 + int(index.unit.max(where=index.plan == number, initial=-1))
            listed = ListedShards.of(self.dataset.store, plan, units)
            there = listed.hold(index.unit, index.part, index.bytes) | (index.plan != number)
            missing.extend(self.dataset.path(shard) for shard in (~there).nonzero()[0].tolist())
        return missing


def _columns(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "none"


def _differ(name: str, old: TokenizerInfo, new: TokenizerInfo) -> str:
    if name == "fingerprint":
        return (
            f"its tokenizer is {old.name} (sha256 {old.fingerprint[:16]}), this one is {new.name} "
            f"(sha256 {new.fingerprint[:16]})"
        )
    before, now = (_shown(getattr(info, name)) for info in (old, new))
    return f"its {name.replace('_', ' ')} is {before}, this one is {now}"


def _shown(value: object) -> str:
    identity = getattr(value, "id", None)
    return f"{identity} {getattr(value, 'text', '')!r}" if identity is not None else repr(value)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
