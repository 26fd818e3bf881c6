"""The encoder for people's own Ray Data code: a column of text in, a column of token ids added.

ds.map_batches(TokenEncoder("gpt2"), batch_format="pyarrow")
"""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import numpy as np
import pyarrow as pa

from pipelines.audit import Draw, check
from pipelines.choose import choose_engine, engine_for
from pipelines.encode import Encoded, batches, frame, reference_for
from pipelines.leaves import is_text
from pipelines.options import AUDIT
from pipelines.read import make_batch
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError

_FIRST_CHECK_BYTES = 64 << 10
_BATCH = "a batch's"
_ADVICE = "TokenEncoder(..., engine='tokenizers') is slower and right"
# Of this process: encoders whose engine has been compared here on the user's own text.
_compared: set[tuple[int, str]] = set()


class TokenEncoder:
    """Adds to each row the ids of its text, as `transformers` gives them without special tokens.

    The tokenizer is resolved and its engine chosen once, where the encoder is made; each worker
    loads them with its first batch. gigatoken is compared with the reference on adversarial
    strings, then in each worker on its first 64 KiB of text and on a random share of the rest.

    Args:
        tokenizer: Hugging Face name, folder, or path of a tokenizer.json.
        text_column: text, or bytes that are UTF-8.
        ids_column: is added, or takes another's place; large_list<uint32>.
        special_tokens: what a special token's own text becomes: "text" (ordinary tokens) or
            "control" (the special token).
        engine: "auto", "gigatoken" or "tokenizers".
        append_eos, prepend_bos: write the end or begin token around each row's ids.
        end_token, begin_token: their texts; None: those that the tokenizer names.
        audit: share of the rows to compare.

    Attributes:
        tokenizer: as it was loaded.
        choice: the engine, and why.

    Raises:
        StokerError: no such tokenizer, or gigatoken is wanted and may not be used.
    """

    def __init__(
        self,
        tokenizer: str,
        *,
        text_column: str = "text",
        ids_column: str = "input_ids",
        special_tokens: str = "text",
        engine: str = "auto",
        append_eos: bool = False,
        prepend_bos: bool = False,
        end_token: str | None = None,
        begin_token: str | None = None,
        audit: float = AUDIT,
    ) -> None:
        self.tokenizer = load_tokenizer(
            tokenizer, end_token, begin_token, append_eos=append_eos, prepend_bos=prepend_bos
        )
        nothing = pa.array([], pa.large_string())
        self.choice = choose_engine(engine, self.tokenizer, special_tokens, nothing)
        self.text_column, self.ids_column = text_column, ids_column
        self.special_tokens = special_tokens
        self._audit = audit if self.choice.engine == "gigatoken" else 0.0

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with one column more.

        Raises:
            StokerError: no such column, or a row in it that is null or no text; or an id that
                isn't the reference's.
        """
        offsets, ids = self.encode(self.documents(batch))
        begin_id, end_id = self.tokenizer.begin_id, self.tokenizer.end_id
        around = (begin_id is not None) + (end_id is not None)
        if around:
            framed = np.empty(len(ids) + around * batch.num_rows, np.uint32)
            offsets = frame(offsets, ids, framed, begin_id=begin_id, end_id=end_id)
            ids = framed
        column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
        place = batch.schema.get_field_index(self.ids_column)
        if place >= 0:
            return batch.set_column(place, self.ids_column, column)
        return batch.append_column(self.ids_column, column)

    def documents(self, batch: pa.Table) -> pa.LargeStringArray:
        """The text of all rows; raises StokerError unless each is text."""
        if not isinstance(batch, pa.Table):
            raise StokerError(
                f"a batch of type {type(batch).__name__}, not an Arrow table: call map_batches "
                "with batch_format='pyarrow'"
            )
        names = batch.schema.names
        kind = batch.schema.field(self.text_column).type if self.text_column in names else None
        # A batch of nothing but nulls has no type that says more.
        if kind is None or not (is_text(kind) or pa.types.is_null(kind)):
            found = ", ".join(f"{field.name} ({field.type})" for field in batch.schema)
            raise StokerError(
                f"there is no column {self.text_column!r} of text among {found or 'none'}: choose "
                "with text_column="
            )
        column = batch.column(self.text_column)
        whole = column.cast(pa.large_binary()).combine_chunks()
        read = make_batch(whole, _BATCH, "row {}".format, 0)
        if read.bad:
            raise StokerError(f"{read.bad[0]}, in column {self.text_column!r}: filter such rows")
        return read.documents

    def encode(self, documents: pa.LargeStringArray) -> Encoded:
        """Ids of each document, without begin and end token, some of them compared."""
        blob = self.tokenizer.blob
        encoded = engine_for(blob, self.special_tokens, self.choice.engine).encode(documents)
        if self._audit:
            self._compare(documents, encoded)
        return encoded

    def _compare(self, documents: pa.LargeStringArray, encoded: Encoded) -> None:
        """Some documents with the reference: at first those that come first, then a few."""
        key = hash(self.tokenizer.blob), self.special_tokens
        if key in _compared:
            draw = Draw(uuid4().hex, 0, self._audit)
        else:
            draw = Draw("", 0, 1.0)
            documents = next(batches(documents, _FIRST_CHECK_BYTES), documents)
        draw.take(documents, encoded, _place)
        reference = partial(reference_for, self.tokenizer.blob, self.special_tokens)
        check(draw.drawn, reference, advice=_ADVICE)
        _compared.add(key)


def _place(number: int) -> str:
    return f"{_BATCH} row {number}"
