"""Token datasets of random ids, for benches that care about bytes and not about text."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from shards.commit import Description, commit
from shards.dataset import open_dataset
from shards.manifest import EndToken, TokenizerInfo
from shards.receipt import Counts, Receipt, ShardRecord
from shards.store import open_store
from shards.writer import build_shard

PLAN = "5eed" * 4
VOCABULARY = 50_257
SHARD_TOKENS = 16_000_000
DOCUMENT_TOKENS = 1_000


def make_tokens(folder: Path, tokens: int, seed: int = 0) -> str:
    """Write a uint16 dataset of `tokens` random ids into `folder`; its uri."""
    store = open_store(str(folder))
    random = np.random.default_rng(seed)
    receipts = []
    for unit, start in enumerate(range(0, tokens, SHARD_TOKENS)):
        count = min(SHARD_TOKENS, tokens - start)
        ids = random.integers(0, VOCABULARY, count, dtype=np.uint16)
        offsets = np.append(np.arange(0, count, DOCUMENT_TOKENS), count)
        built = build_shard(offsets, ids)
        shard = ShardRecord.of(PLAN, unit, 0, built)
        store.write(shard.path, built.data)
        documents = built.documents
        counts = Counts(rows=documents, documents=documents, tokens=count)
        receipts.append(Receipt(unit, counts, (shard,)))
    nothing = "{}"
    tokenizer = TokenizerInfo(
        name="random ids",
        fingerprint=hashlib.sha256(nothing.encode()).hexdigest(),
        vocab_size=VOCABULARY,
        end_token=EndToken(id=VOCABULARY - 1, text="<|endoftext|>"),
        added_tokens={},
        special_tokens="text",
    )
    description = Description(
        dtype="uint16",
        tokenizer=tokenizer,
        tokenizer_json=nothing,
        engine="none",
        engine_reason="random ids",
        libraries={},
    )
    commit(store, description, receipts, [])
    return store.uri


def flatten(uri: str, path: Path, split: str = "train") -> str:
    """Write the token stream of a dataset into one file of ids, for memory maps; its path."""
    stream = open_dataset(uri).stream(split)
    with path.open("wb") as file:
        for start in range(0, stream.tokens, SHARD_TOKENS):
            for piece in stream.pieces(start, min(start + SHARD_TOKENS, stream.tokens)):
                store, cells = stream.dataset.store, stream.dataset.cells
                data = store.read(piece.path, piece.byte_start, piece.byte_stop)
                checksums = cells.read("tokens_xxh3", piece.cell_start, piece.cell_stop)
                file.write(piece.tokens(data, checksums).tobytes())
    return str(path)
