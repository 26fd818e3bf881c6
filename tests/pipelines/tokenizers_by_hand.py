"""Small tokenizers made by hand, each with one property that a test is about."""

from __future__ import annotations

import copy
import json
from typing import Any

from pipelines.allow import byte_letters


def added(content: str, id: int, *, special: bool = True, **changes: bool) -> dict[str, Any]:
    """An entry of `added_tokens`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, **flags, "special": special, **changes}


def pair_tokenizer(split: str | None = None, merged: str | None = None) -> dict[str, Any]:
    """A byte-level BPE that merges any two bytes, so that each border of words shows.

    Args:
        split: the pattern of its Split; None: GPT-2's own.
        merged: the letters of which any two merge; None: all 256. Fewer load faster.
    """
    letters = sorted(byte_letters())
    pairs = letters if merged is None else sorted(merged)
    merges = [[a, b] for a in pairs for b in pairs]
    # Out of order, or every word would fall apart in the same way, from the left.
    merges = merges[1::3] + merges[::3] + merges[2::3]
    tokens = letters + [a + b for a, b in merges]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split is None,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added("<|end|>", len(tokens)),
            added("<|pad|>", len(tokens) + 1),
            added("[PLAIN]", len(tokens) + 2, special=False),
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level if split is None else split_then(split, byte_level),
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


# (normalizer, pre_tokenizer) of the families that write a space as this letter.
_SPACE = "\u2581"
_TO_LETTER = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_METASPACE = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
SPACES: dict[str, tuple[Any, Any]] = {
    "Llama 2": (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, _TO_LETTER]},
        None,
    ),
    "Mistral": (None, _METASPACE),
    "Gemma": (
        _TO_LETTER,
        {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    ),
    "Gemma 1": (_TO_LETTER, None),
    "bare": (None, None),
    "always": (None, {**_METASPACE, "prepend_scheme": "always"}),
}


def sentencepiece_tokenizer(family: str) -> dict[str, Any]:
    """A BPE of characters with byte fallback that merges any two of some letters.

    Args:
        family: one of `SPACES`.
    """
    letters = list(_SPACE + "abcdeABxyz019.,!?'<>|/-é中の😀\u0301\n\t")
    pairs = [[a, b] for a in letters for b in letters]
    merges = pairs[1::3] + pairs[::3] + pairs[2::3]
    merges += [[_SPACE * 2, _SPACE * 2], [_SPACE * 4, _SPACE * 4]]
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [a + b for a, b in merges]
    plain = ["[PLAIN]", "\n\n\n", _SPACE * 3, "<td>"]
    result = pair_tokenizer(merged="a")
    result["normalizer"], result["pre_tokenizer"] = copy.deepcopy(SPACES[family])
    result["added_tokens"] = [added(text, id) for id, text in enumerate(special)]
    result["added_tokens"] += [
        added(text, len(tokens) + i, special=False) for i, text in enumerate(plain)
    ]
    result["model"].update(
        vocab={token: id for id, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    return result


def split_then(pattern: str, byte_level: dict[str, Any]) -> dict[str, Any]:
    """A Split by `pattern` before the ByteLevel step."""
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def changed(tokenizer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at `path`, such as `model.dropout` or `added_tokens.0.lstrip`."""
    result = copy.deepcopy(tokenizer)
    *parents, last = path.split(".")
    place: Any = result
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return result


def blob(tokenizer: dict[str, Any]) -> str:
    """The tokenizer.json."""
    return json.dumps(tokenizer, ensure_ascii=False)
