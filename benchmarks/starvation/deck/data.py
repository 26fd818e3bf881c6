"""Rows of ids as a token dataset, packed: what `pipelines/tokenize.py` makes, without its cluster.

One document a row, its ids as they are, so that the deck's collate and Stoker train on the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from loaders.pack import make_packs
from pipelines.tokenizer import Tokenizer
from shards.commit import Description, commit
from shards.manifest import EndToken, TokenizerInfo
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import open_store
from shards.writer import build_shard


def write_rows(
    folder: Path, rows: Sequence[Sequence[int]], tokenizer: Tokenizer, seq_len: int
) -> str:
    """Write `rows`, a document each, as a dataset with a plan for rows of `seq_len`; its uri.

    `tokenizer`: what made them, for the manifest.
    """
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.largest_id < 1 << 16 else "uint32"
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter(chain.from_iterable(rows), np.dtype(dtype), int(offsets[-1]))
    plan = hashlib.sha256(ids.tobytes() + offsets.tobytes()).hexdigest()[:16]
    store = open_store(str(folder))
    shard = ShardRecord.of(plan, 0, 0, built := build_shard(offsets, ids))
    store.write(shard.path, built.data)
    counts = Counts(rows=len(rows), documents=len(rows), tokens=len(ids))
    commit(store, _description(tokenizer, dtype), [Receipt(0, counts, (shard,))], [])
    make_packs(store.uri, seq_len)
    return store.uri


def _description(tokenizer: Tokenizer, dtype: Literal["uint16", "uint32"]) -> Description:
    begin = None
    if tokenizer.begin_id is not None and tokenizer.begin_text is not None:
        begin = EndToken(id=tokenizer.begin_id, text=tokenizer.begin_text)
    return Description(
        dtype=dtype,
        tokenizer=TokenizerInfo(
            name=tokenizer.name,
            fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.largest_id + 1,
            end_token=None,
            begin_token=begin,
            added_tokens={str(one["id"]): one["content"] for one in tokenizer.added_tokens},
            special_tokens="control",
        ),
        tokenizer_json=tokenizer.blob,
        engine="tokenizers",
        engine_reason="rows tokenized by transformers, as the deck's job does",
        libraries={},
    )
