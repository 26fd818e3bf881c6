"""A Ray Data sink that writes any Dataset as a token dataset.

    ds.write_datasink(TokenDatasink("s3://tokens/v1", tokenizer="gpt2"))

What differs from the tokenize job: the blocks are Ray's, so neither the bytes nor the names of
shards are the same from one write to the next, and a write that failed is begun anew. What holds: a
task that runs twice writes to the same names, nothing exists before the manifest, and that is
written once all tasks are done. `docs/tokenizing.md` has the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import pyarrow as pa
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from pipelines.behind import Behind
from pipelines.encoder import TokenEncoder
from pipelines.fill import Form, Shards
from pipelines.options import AUDIT, SHARD_BYTES
from pipelines.plan import LIBRARIES, Unit
from pipelines.record import tokenizer_info
from pipelines.rows import Rows
from pipelines.special_texts import SpecialTexts
from pipelines.text_buffers import text_of
from shards.commit import Description, commit
from shards.errors import StokerError, StoreError
from shards.format import token_dtype
from shards.hold import HeldLease, hold_lease
from shards.manifest import PLAN_KEY, Manifest, read_manifest
from shards.receipt import Counts, Receipt
from shards.store import open_store


class TokenDatasink(Datasink[Receipt]):
    """Writes the text of each row as a document.

    Args:
        uri: folder or s3://bucket/prefix; holds no dataset, unless `overwrite`.
        tokenizer, text_column, special_tokens, engine, append_eos, prepend_bos, end_token,
            begin_token, audit: see `TokenEncoder`.
        source: label of the documents.
        shard_bytes: token bytes a shard holds at most, unless one document is longer. Shards are
            at least one a block: `repartition` before the write if blocks are small.
        overwrite: replace the dataset that is there: its manifest at the end, its files never.

    Attributes:
        manifest: of the dataset, once it is written.

    Raises:
        StokerError: no such tokenizer, or gigatoken is wanted and may not be used.
    """

    def __init__(
        self,
        uri: str,
        *,
        tokenizer: str,
        text_column: str = "text",
        source: str = "default",
        special_tokens: str = "text",
        engine: str = "auto",
        append_eos: bool = True,
        prepend_bos: bool = False,
        end_token: str | None = None,
        begin_token: str | None = None,
        audit: float = AUDIT,
        shard_bytes: int = SHARD_BYTES,
        overwrite: bool = False,
    ) -> None:
        self._encoder = TokenEncoder(
            tokenizer,
            text_column=text_column,
            special_tokens=special_tokens,
            engine=engine,
            append_eos=append_eos,
            prepend_bos=prepend_bos,
            end_token=end_token,
            begin_token=begin_token,
            audit=audit,
        )
        self._uri, self._source, self._overwrite = uri, source, overwrite
        loaded = self._encoder.tokenizer
        # A name of its own for each write: its bytes depend on Ray's blocks, so no other write's
        # shards may be taken for its own.
        self._form = Form(
            uuid4().hex[:16],
            token_dtype(loaded.largest_id),
            shard_bytes,
            loaded.begin_id,
            loaded.end_id,
        )
        self.manifest: Manifest | None = None
        self._held = ExitStack()
        self._lease: HeldLease | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Workers get no lease: it is the driver's."""
        return {**self.__dict__, "_held": None, "_lease": None}

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """On the driver, before the first task.

        Raises:
            StokerError: the output holds a dataset, or another writer is at work there.
        """
        store = open_store(self._uri)
        if read_manifest(store) is not None and not self._overwrite:
            raise StokerError(f"{store.uri} holds a dataset. Choose another uri, or overwrite=True")
        self._lease = self._held.enter_context(hold_lease(store, lambda line: None))
        content = {"plan": self._form.plan, "written by": type(self).__name__}
        store.write(PLAN_KEY, json.dumps(content, indent=1).encode())

    def write(self, blocks: Iterable[Block], ctx: Any) -> Receipt:
        """The task: its blocks -> shards. Twice the same blocks, twice the same bytes.

        Raises:
            StokerError: a row without text, or a store that refuses.
        """
        tokenizer = self._encoder.tokenizer
        unit = Unit(ctx.task_idx, self._source, ())
        specials = SpecialTexts(tokenizer.special_texts)
        counts = Counts()
        with Behind() as behind:
            shards = Shards(open_store(self._uri), unit, self._form, behind)
            for block in blocks:
                table = BlockAccessor.for_block(block).to_arrow()
                if not table.num_rows:
                    continue
                documents = self._encoder.documents(table)
                shards.add(Rows(*self._encoder.encode(documents)))
                counts += Counts(
                    rows=len(documents),
                    documents=len(documents),
                    special_documents=specials.count(documents),
                    text_bytes=len(text_of(documents)),
                )
            shards.flush()
            records = shards.records()
        return Receipt(ctx.task_idx, counts + Counts(tokens=shards.tokens), tuple(records))

    def on_write_complete(self, write_result: WriteResult[Receipt]) -> None:
        """On the driver, after the last task: the dataset begins to exist.

        Raises:
            StokerError: receipts are missing, or somebody else took over the output.
        """
        receipts = [receipt for receipt in write_result.write_returns if receipt is not None]
        rows = sum(receipt.counts.rows for receipt in receipts)
        if rows != write_result.num_rows:
            raise StokerError(f"{rows} rows were written, Ray counted {write_result.num_rows}")
        if self._lease is not None:
            self._lease.check()
        encoder, tokenizer = self._encoder, self._encoder.tokenizer
        description = Description(
            dtype=self._form.dtype.name,  # type: ignore[arg-type]
            tokenizer=tokenizer_info(tokenizer, encoder.special_tokens),
            tokenizer_json=tokenizer.blob,
            engine=encoder.choice.engine,
            engine_reason=encoder.choice.reason,
            libraries={name: version(name) for name in LIBRARIES},
        )
        self.manifest = commit(open_store(self._uri), description, receipts, [])
        self._held.close()

    def on_write_failed(self, error: Exception) -> None:
        """On the driver: no manifest is written; `python -m shards gc` removes the shards."""
        if self._lease is not None:
            # Nobody can go on with this plan; a dataset may be written here another time.
            with suppress(StoreError):
                open_store(self._uri).delete(PLAN_KEY)
        self._held.close()
