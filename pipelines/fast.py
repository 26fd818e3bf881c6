"""The fast engine, gigatoken, and the list of tokenizers it may be used for.

gigatoken encodes some tokenizers wrongly without a word (`Digits` before a known split,
`single_word` added tokens, `dropout`), so only shapes that were compared with the reference are let
in; all else goes to the reference, and the reason is told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.differing import cut_out, find_differing, safe_border
from pipelines.encode import Encoded, ReferenceEngine, offsets_of
from shards.errors import StokerError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _QWEN2.replace(r"?\p{L}+|", r"?[\p{L}\p{M}]+|").replace(r"\s\p{L}", r"\s\p{L}\p{M}")
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NEMOTRON = _O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
# By the family that made each known. Not cl100k's (`\s*[\r\n]` without the +): gigatoken 0.10.0
# parts from the reference where U+0085, U+00A0 or another wide space follows a carriage return.
SPLITS = {
    "Llama 3": _LLAMA3,
    "Qwen 2": _QWEN2,
    "Qwen 3.5": _QWEN35,
    "o200k": _O200K,
    "Nemotron": _NEMOTRON,
}

_CACHE_BYTES = 384 << 20
_REBUILD_AFTER_BYTES = 8 << 30


def refusal(content: Mapping[str, Any], special_tokens: str) -> str | None:
    """Why gigatoken may not encode with this tokenizer, in words; None when it may.

    Args:
        content: a parsed tokenizer.json.
        special_tokens: "text" or "control".
    """
    if content.get("normalizer") is not None:
        return f"it normalizes text ({content['normalizer'].get('type')})"
    return (
        _refuse_model(content["model"])
        or _refuse_pre_tokenizer(content.get("pre_tokenizer"))
        or _refuse_added(content.get("added_tokens") or (), special_tokens)
    )


def _refuse_model(model: Mapping[str, Any]) -> str | None:
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    for name in ("dropout", "unk_token", "byte_fallback", "fuse_unk"):
        if model.get(name):
            return f"its BPE has {name}"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"its BPE has a {name}"
    missing = [byte for byte in byte_letters() if byte not in model["vocab"]]
    if missing:
        return f"its vocabulary lacks {len(missing)} of the 256 bytes"
    return None


def _refuse_pre_tokenizer(pre: Mapping[str, Any] | None) -> str | None:
    if pre is None:
        return "it doesn't split text into words"
    if pre["type"] == "ByteLevel" and pre.get("use_regex", True):
        return "it puts a space before text" if pre.get("add_prefix_space") else None
    steps: Sequence[Any] = pre.get("pretokenizers", ()) if pre["type"] == "Sequence" else (pre,)
    kinds = " + ".join(step["type"] for step in steps)
    if kinds != "Split + ByteLevel":
        return f"it splits text by {kinds}, a combination not proved equal"
    split, byte_level = steps[0], steps[1]
    if split["behavior"] != "Isolated" or split.get("invert"):
        return f"its Split is {split['behavior']}{', inverted' if split.get('invert') else ''}"
    if split["pattern"].get("Regex") not in SPLITS.values():
        return "its split pattern is not one of those proved equal: " + ", ".join(SPLITS)
    if byte_level.get("use_regex", True) or byte_level.get("add_prefix_space"):
        return "its ByteLevel step splits once more, or puts a space before text"
    return None


def _refuse_added(added: Sequence[Mapping[str, Any]], special_tokens: str) -> str | None:
    for token in added:
        for name in ("single_word", "lstrip", "rstrip"):
            if token.get(name):
                return f"its added token {token['content']!r} is {name}"
        if not token["content"]:
            return "it has an empty added token"
    if len({bool(token.get("normalized")) for token in added}) > 1:
        return "some of its added tokens are normalized and some are not"
    if special_tokens == "text":
        # The reference finds a special token, then passes over its place; gigatoken never sees it.
        plain = [token["content"] for token in added if not token["special"]]
        for token in added:
            other = next(
                (p for p in plain if token["special"] and _touch(token["content"], p)), None
            )
            if other:
                return f"its special token {token['content']!r} overlaps the added token {other!r}"
    return None


def _touch(a: str, b: str) -> bool:
    """Whether occurrences of `a` and `b` in one text can share characters."""
    overlap = any(a[-n:] == b[:n] or b[-n:] == a[:n] for n in range(1, min(len(a), len(b)) + 1))
    return overlap or a in b or b in a


def byte_letters() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(0x100 + i) for i in range(len(hidden))]


class FastEngine:
    """gigatoken on one thread; stretches with code points it classes otherwise go to HF's."""

    name = "gigatoken"

    def __init__(
        self, blob: str, special_tokens: str, reference: ReferenceEngine | None = None
    ) -> None:
        """As `ReferenceEngine`; call `refusal` first.

        Args:
            reference: of the same tokenizer, where there is one; else made when it is needed.

        Raises:
            StokerError: gigatoken can't load it.
        """
        # Read when its thread pool is made; workers are many, so each has one thread.
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
        self._blob, self._special_tokens = blob, special_tokens
        self._reference = reference
        self._tokenizer = self._build()
        self._encoded_bytes = self._cache_bytes = 0
        added = orjson.loads(blob).get("added_tokens") or ()
        matched = [t["content"] for t in added if special_tokens != "text" or not t["special"]]
        self._border = safe_border(matched)

    def encode(self, documents: pa.LargeStringArray) -> Encoded:
        """See `Engine.encode`."""
        places = find_differing(documents)
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

        before = _resident_bytes()
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
        self._cache_bytes += max(0, _resident_bytes() - before - ids.nbytes)
        # Its caches only grow; what they hold of rare words is worth less than the memory.
        if self._cache_bytes > _CACHE_BYTES or self._encoded_bytes > _REBUILD_AFTER_BYTES:
            self._renew()
        return offsets, ids

    def _encode_slowly(self, documents: pa.LargeStringArray) -> Encoded:
        if self._reference is None:
            self._reference = ReferenceEngine(self._blob, self._special_tokens)
        return self._reference.encode(documents)

    def _renew(self) -> None:
        self._tokenizer = self._build()
        self._encoded_bytes = self._cache_bytes = 0

    def _build(self) -> Any:
        from gigatoken.gigatoken_rs import load_hf_json

        content = orjson.loads(self._blob)
        if self._special_tokens == "text":
            # gigatoken has no switch for it; a token it doesn't know is text.
            content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
        try:
            return load_hf_json(orjson.dumps(content))
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


def _resident_bytes() -> int:
    """Memory of this process; 0 where /proc isn't Linux's."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
