"""The fast engine, gigatoken. `pipelines.allow` says for which tokenizers it may be used."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.differing import cut_out, find_differing, safe_border
from pipelines.encode import LONGEST_FOR_REFERENCE, Encoded, offsets_of, reference_for
from pipelines.normal import find_unnormalized, normalizers
from pipelines.options import show_size
from pipelines.resident import resident_bytes
from shards.errors import StokerError

_CACHE_BYTES = 384 << 20
_REBUILD_AFTER_BYTES = 8 << 30


class FastEngine:
    """gigatoken on one thread; stretches with code points it classes otherwise go to HF's."""

    name = "gigatoken"

    def __init__(self, blob: str, special_tokens: str) -> None:
        """As `ReferenceEngine`; call `allow.refusal` first.

        Raises:
            StokerError: gigatoken can't load it.
        """
        # Read when its thread pool is made; workers are many, so each has one thread.
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
        self._blob, self._special_tokens = blob, special_tokens
        # Parsed once: of a large tokenizer that takes as long as loading it.
        content = orjson.loads(blob)
        if special_tokens == "text":
            # gigatoken has no switch for it; a token it doesn't know is text.
            content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
        # BPE of characters splits by nothing that a table of Unicode decides.
        self._has_classes = not content["model"].get("byte_fallback")
        # What NFC would change never comes to gigatoken.
        self._nfc = self._has_classes and "NFC" in normalizers(content)
        if self._has_classes:
            content["normalizer"] = None
        self._border = safe_border(t["content"] for t in content.get("added_tokens") or ())
        self._loadable = orjson.dumps(content)
        self._tokenizer = self._build()
        self._encoded_bytes = self._cache_bytes = 0

    def encode(self, documents: pa.LargeStringArray) -> Encoded:
        """See `Engine.encode`."""
        changed = find_unnormalized(documents) if self._nfc else None
        if changed is None:
            return self._encode_normal(documents)
        mask = pa.array(changed)
        rest = pc.if_else(mask, pa.scalar("", pa.large_string()), documents)
        slow = self._encode_slowly(documents.filter(mask))
        return _merge(changed, self._encode_normal(rest), slow)

    def _encode_normal(self, documents: pa.LargeStringArray) -> Encoded:
        places = find_differing(documents) if self._has_classes else None
        if places is None:
            return self._encode_fast(documents)
        pieces, odd, first_piece = cut_out(documents, places, self._border)
        fast = self._encode_fast(
            pc.if_else(pa.array(odd), pa.scalar("", pa.large_string()), pieces)
        )
        offsets, ids = _merge(odd, fast, self._encode_slowly(pieces.filter(pa.array(odd))))
        return offsets[first_piece], ids

    def _encode_fast(self, documents: pa.LargeStringArray) -> Encoded:
        import awkward as ak

        before = resident_bytes()
        try:
            layout = self._tokenizer.encode_batch(ak.from_arrow(documents), parallel=False).layout
        except BaseException as error:
            # pyo3's PanicException derives from BaseException alone and has no importable name.
            if type(error).__name__ != "PanicException":
                raise
            self._renew()
            return self._encode_slowly(documents)
        offsets, ids = np.asarray(layout.offsets.data), np.asarray(layout.content.data)
        self._encoded_bytes += documents.nbytes
        self._cache_bytes += max(0, resident_bytes() - before - ids.nbytes)
        # Its caches only grow; what they hold of rare words is worth less than the memory.
        if self._cache_bytes > _CACHE_BYTES or self._encoded_bytes > _REBUILD_AFTER_BYTES:
            self._renew()
        return offsets, ids

    def _encode_slowly(self, documents: pa.LargeStringArray) -> Encoded:
        longest = int(pc.max(pc.binary_length(documents)).as_py() or 0)
        if longest > LONGEST_FOR_REFERENCE:
            raise StokerError(
                f"a document has {show_size(longest)} of text that only tokenizers can encode, and "
                f"that takes {show_size(110 * longest)} of memory: --engine tokenizers sets "
                "documents of that length apart"
            )
        return reference_for(self._blob, self._special_tokens).encode(documents)

    def _renew(self) -> None:
        self._tokenizer = self._build()
        self._encoded_bytes = self._cache_bytes = 0

    def _build(self) -> Any:
        from gigatoken.gigatoken_rs import load_hf_json

        try:
            return load_hf_json(self._loadable)
        except Exception as error:
            raise StokerError(f"gigatoken can't load this tokenizer: {error}") from error


def _merge(odd: npt.NDArray[np.bool_], fast: Encoded, slow: Encoded) -> Encoded:
    """Ids of all documents, from `slow` where `odd`, else from `fast`."""
    lengths = np.diff(fast[0])
    lengths[odd] = np.diff(slow[0])
    from_slow = np.repeat(odd, lengths)
    ids = np.empty(len(from_slow), np.uint32)
    ids[from_slow] = slow[1]
    ids[~from_slow] = fast[1]
    return offsets_of(lengths), ids
