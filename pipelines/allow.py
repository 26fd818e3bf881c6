"""Which tokenizers the fast engine may encode with, shape by shape; for the others, why not.

gigatoken encodes some tokenizers wrongly without a word (`Digits` before a known split,
`single_word` added tokens, `dropout`), so only shapes that were compared with the reference are let
in; all else goes to the reference, and the reason is told. `tests/pipelines/shapes.py` lists every
shape with its verdict.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.normal import normalizers

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    # As DeepSeek writes it: ends of lines are the characters themselves, not escapes.
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
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
# encodes it as tiktoken's, with `\s++$` before, so it parts from the reference where a text ends in
# spaces behind a line's end, and where U+0085, U+00A0 or another wide space follows one.
SPLITS = {
    "Llama 3": _LLAMA3,
    "Qwen 2": _QWEN2,
    "Qwen 3.5": _QWEN35,
    "o200k": _O200K,
    "Nemotron": _NEMOTRON,
    "GPT-2": GPT2_SPLIT,
}

_SPACE = "\u2581"
_TO_LETTER = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
# (normalizer, pre_tokenizer) of the families whose BPE of characters falls back to bytes.
_BYTE_FALLBACK: tuple[tuple[Any, Any], ...] = (
    ({"type": "Sequence", "normalizers": [_PREPEND, _TO_LETTER]}, None),  # Llama 2
    (  # Mistral 0.3
        None,
        {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False},
    ),
    (_TO_LETTER, None),  # Gemma 1
    (  # Gemma 2 and 3
        _TO_LETTER,
        {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    ),
)


def refusal(content: Mapping[str, Any], special_tokens: str) -> str | None:
    """Why gigatoken may not encode with this tokenizer, in words; None when it may.

    Args:
        content: a parsed tokenizer.json.
        special_tokens: "text" or "control".
    """
    model, added = content["model"], content.get("added_tokens") or ()
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    of_family = _refuse_byte_fallback if model.get("byte_fallback") else _refuse_byte_level
    return _refuse_model(model, added) or of_family(content) or _refuse_added(added, special_tokens)


def _refuse_model(model: Mapping[str, Any], added: Sequence[Any]) -> str | None:
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"its BPE has {name} {model[name]!r}"
    ids = {*model["vocab"].values(), *(token["id"] for token in added)}
    if len(ids) != max(ids) + 1:
        # The reference counts added tokens on from the number of tokens, not from the largest id.
        return "its ids have gaps"
    merges = model["merges"]
    # The reference takes the last of such, gigatoken the first.
    if len({pair if isinstance(pair, str) else tuple(pair) for pair in merges}) < len(merges):
        return "it has merges that come twice"
    return None


def _refuse_byte_level(content: Mapping[str, Any]) -> str | None:
    """BPE over bytes written as letters, as GPT-2 began it."""
    normalizing = normalizers(content)
    if {*normalizing} - {"NFC"}:
        return f"it normalizes text ({', '.join(normalizing)})"
    for token in content.get("added_tokens") or () if normalizing else ():
        if not unicodedata.is_normalized("NFC", token["content"]):
            return f"its normalizer, NFC, changes the added token {token['content']!r}"
    for name in ("unk_token", "fuse_unk"):
        if content["model"].get(name):
            return f"its BPE has {name}"
    missing = [byte for byte in byte_letters() if byte not in content["model"]["vocab"]]
    if missing:
        return f"its vocabulary lacks {len(missing)} of the 256 bytes"
    return _refuse_pre_tokenizer(content.get("pre_tokenizer"))


def _refuse_byte_fallback(content: Mapping[str, Any]) -> str | None:
    """BPE over characters that spells unknown ones in bytes, as SentencePiece began it."""
    if (content.get("normalizer"), content.get("pre_tokenizer")) not in _BYTE_FALLBACK:
        return "its normalizer and pre_tokenizer with byte fallback: a combination not proved equal"
    if content["model"].get("ignore_merges"):
        return "its BPE has ignore_merges with byte fallback"
    missing = [b for b in range(256) if f"<0x{b:02X}>" not in content["model"]["vocab"]]
    if missing:
        return f"its vocabulary lacks {len(missing)} of the 256 bytes"
    if any(token.get("normalized") for token in content.get("added_tokens") or ()):
        return "some of its added tokens are normalized"
    return None


def _refuse_pre_tokenizer(pre: Mapping[str, Any] | None) -> str | None:
    if pre is None:
        return "it doesn't split text into words"
    if pre["type"] == "ByteLevel" and pre.get("use_regex", True):
        return "it puts a space before text" if pre.get("add_prefix_space") else None
    steps: Sequence[Any] = pre.get("pretokenizers", ()) if pre["type"] == "Sequence" else (pre,)
    *splits, byte_level = steps or ({"type": "nothing"},)
    kinds = [step["type"] for step in steps]
    if kinds not in (["Split", "ByteLevel"], [*["Split"] * len(DEEPSEEK), "ByteLevel"]):
        return f"it splits text by {' + '.join(kinds)}, a combination not proved equal"
    for split in splits:
        if split["behavior"] != "Isolated" or split.get("invert"):
            return f"its Split is {split['behavior']}{', inverted' if split.get('invert') else ''}"
    patterns = tuple(split["pattern"].get("Regex") for split in splits)
    if patterns != DEEPSEEK and (len(patterns) > 1 or patterns[0] not in SPLITS.values()):
        known = ", ".join([*SPLITS, "DeepSeek V3"])
        return f"its split pattern is not one of those proved equal: {known}"
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
