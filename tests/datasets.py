"""Small real token datasets for the tests of every room."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.commit import Description, InputFile, commit
from shards.format import Tokens
from shards.manifest import DocumentRules, EndToken, Manifest, TokenizerInfo
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import open_store
from shards.writer import build_shard

PLAN = "0123456789abcdef"
TOKENIZER_JSON = "{}"


def description(dtype: Literal["uint16", "uint32"]) -> Description:
    """Of a dataset whose tokens are numbers that no tokenizer made."""
    return Description(
        dtype=dtype,
        tokenizer=TokenizerInfo(
            name="none",
            fingerprint=hashlib.sha256(TOKENIZER_JSON.encode()).hexdigest(),
            vocab_size=1 << (16 if dtype == "uint16" else 32),
            end_token=EndToken(id=0, text="<end>"),
            added_tokens={},
            special_tokens="text",
        ),
        tokenizer_json=TOKENIZER_JSON,
        engine="none",
        engine_reason="written by a test",
        libraries={},
    )


def write_dataset(
    uri: str,
    shards: Sequence[Sequence[Tokens]],
    *,
    loss_masks: Sequence[npt.NDArray[np.uint8]] | None = None,
    sources: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    columns: Sequence[Mapping[str, pa.Array]] | None = None,
    vocab_size: int | None = None,
) -> Manifest:
    """Writes `shards`, each a list of documents, each of those an array of tokens.

    Each of `columns` is kept beside the documents of a shard. `vocab_size`: None: the dtype's.
    """
    store = open_store(uri)
    receipts = []
    for unit, documents in enumerate(shards):
        lengths = np.array([len(document) for document in documents], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        tokens: Any = np.concatenate(documents)
        mask = loss_masks[unit] if loss_masks else None
        record = ShardRecord.of(
            PLAN,
            unit,
            0,
            built := build_shard(
                offsets, tokens, loss_mask=mask, columns=columns[unit] if columns else None
            ),
            source=sources[unit] if sources else "default",
            split=splits[unit] if splits else "train",
        )
        store.write(record.path, built.data)
        counts = Counts(rows=len(documents), documents=len(documents), tokens=len(tokens))
        receipts.append(Receipt(unit, counts, (record,)))
    dtype: Any = shards[0][0].dtype.name
    about = description(dtype)
    if vocab_size:
        vocabulary = about.tokenizer.model_copy(update={"vocab_size": vocab_size})
        about = replace(about, tokenizer=vocabulary)
    if columns:
        kinds = {name: str(values.type) for name, values in columns[0].items()}
        about = replace(about, rules={PLAN: DocumentRules(columns=kinds)})
    return commit(store, about, receipts, [InputFile("test", 1, "x", "default")])
