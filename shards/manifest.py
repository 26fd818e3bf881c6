"""The manifest: what a dataset is. Written last, the only object that ever changes."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shards.errors import DatasetError, MissingObject
from shards.format import FORMAT, FORMAT_VERSION, PLAN_ID
from shards.receipt import Counts
from shards.store import Store
from shards.tables import TableInfo

MANIFEST = "manifest.json"
PLAN_KEY = "plan.json"

# Fields younger than the first datasets, by their place: written where they are used, so that what
# doesn't use them keeps its bytes and its id.
_LATER = {
    "": ("rules",),
    "tokenizer": ("begin_token",),
    "counts": (
        "dropped_empty",
        "dropped_short",
        "dropped_long",
        "transform_in",
        "transform_out",
    ),
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EndToken(_Model):
    """A token that the job writes around each document."""

    id: int = Field(ge=0, lt=1 << 32)
    text: str


class TokenizerInfo(_Model):
    """Which tokenizer made the ids.

    Attributes:
        name: as the job was given it.
        fingerprint: sha256 of its serialized form, which lies beside the manifest as `file`.
        vocab_size: the largest id and one.
        end_token, begin_token: written after and before each document; None: none is.
        added_tokens: texts of added tokens by id (as text: these are JSON keys).
        special_tokens: whether a special token's text inside a document became text or control.
    """

    name: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    vocab_size: int = Field(gt=0, le=1 << 32)
    end_token: EndToken | None
    added_tokens: dict[str, str]
    special_tokens: Literal["text", "control"]
    begin_token: EndToken | None = None

    @property
    def file(self) -> str:
        """Key of the serialized tokenizer below the dataset."""
        return f"tokenizer-{self.fingerprint[:16]}.json"


class DocumentRules(_Model):
    """What a plan did with documents besides encoding them; never executed, only shown.

    Attributes:
        min_tokens, max_tokens: of a document, begin and end tokens not counted; others are dropped.
        validation: share of documents in split `validation`, chosen by a hash of their text.
        shuffle_seed: documents of each unit were permuted by it.
        transform: `module:function` that made the documents, and the sha256 of the module's source.
        columns: kept beside the tokens, and their Arrow types.
        limit: documents of each source at most.
    """

    min_tokens: int | None = None
    max_tokens: int | None = None
    validation: float = 0.0
    shuffle_seed: int | None = None
    transform: str | None = None
    transform_sha256: str | None = None
    columns: dict[str, str] = {}
    limit: int | None = None


class Totals(_Model):
    """Sums over the shards of one source in one split; `bytes` are the shard files'."""

    shards: int = Field(ge=0)
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Tables(_Model):
    """The three tables beside the manifest."""

    index: TableInfo
    cells: TableInfo
    inputs: TableInfo


class Manifest(_Model):
    """All of `manifest.json`. No clock, host, duration or attempt: the same job, the same bytes.

    Attributes:
        plans, splits, sources: what the numbers in the index mean.
        totals: by split, then by source.
        counts: rows read and what became of them.
        rules: by plan; a plan without any is left out.
    """

    format: Literal["stoker-tokens"] = FORMAT
    version: Literal[1] = FORMAT_VERSION
    dtype: Literal["uint16", "uint32"]
    loss_mask: bool
    tokenizer: TokenizerInfo
    engine: str
    engine_reason: str
    plans: tuple[str, ...]
    splits: tuple[str, ...]
    sources: tuple[str, ...]
    totals: dict[str, dict[str, Totals]]
    counts: Counts
    tables: Tables
    libraries: dict[str, str]
    rules: dict[str, DocumentRules] = {}

    @field_validator("plans")
    @classmethod
    def _plans_are_hex(cls, plans: tuple[str, ...]) -> tuple[str, ...]:
        for plan in plans:
            if not PLAN_ID.fullmatch(plan):
                raise ValueError(f"{plan!r} is no plan id: 8 to 64 hex digits")
        return plans

    @model_validator(mode="after")
    def _rules_are_of_plans(self) -> Manifest:
        strangers = sorted(set(self.rules) - set(self.plans))
        if strangers:
            raise ValueError(f"rules of {strangers[0]!r}, which is none of the plans")
        return self

    @property
    def tokens(self) -> int:
        """Tokens of all splits and sources."""
        return sum(one.tokens for split in self.totals.values() for one in split.values())

    @property
    def documents(self) -> int:
        """Documents of all splits and sources."""
        return sum(one.documents for split in self.totals.values() for one in split.values())

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`."""
        content = self.model_dump(mode="json")
        for place, names in _LATER.items():
            part = content[place] if place else content
            for name in names:
                if not part[name]:
                    del part[name]
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of the dataset in `store`; None if there is no dataset.

    Raises:
        DatasetError: there is one, but not one that this version reads.
    """
    try:
        data = store.read(MANIFEST)
    except MissingObject:
        return None
    return parse_manifest(data, store.uri)


def parse_manifest(data: bytes, uri: str) -> Manifest:
    """A manifest from its bytes. `uri`: of the dataset. Raises DatasetError, likewise."""
    where = f"{uri}/{MANIFEST}"
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DatasetError(f"{where} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DatasetError(f"{where} is not the manifest of a token dataset (no format {FORMAT!r})")
    if content.get("version") != FORMAT_VERSION:
        raise DatasetError(
            f"{where} has format version {content.get('version')!r}, this version of Stoker reads "
            f"{FORMAT_VERSION}: install a newer one"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{where}: {place}: {first['msg']}") from error
