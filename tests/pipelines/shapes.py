"""Every shape of tokenizer that Stoker has a policy for, and the policy: one line each.

`reason` is part of what is told where the reference encodes; None: the fast engine does, and must
give the reference's ids for any text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.allow import DEEPSEEK, GPT2_SPLIT, SPLITS
from tests.pipelines.tokenizers_by_hand import (
    added,
    changed,
    pair_tokenizer,
    sentencepiece_tokenizer,
    split_then,
)

CL100K = SPLITS["Llama 3"].replace(r"\s*[\r\n]+", r"\s*[\r\n]")
CL100K_POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s+"
)
KIMI = r"[\p{Han}]+|" + SPLITS["o200k"].replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("/", "")
DIGITS = {"type": "Digits", "individual_digits": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
        "<|end|>": {"id": "<|end|>", "ids": [5], "tokens": ["<|end|>"]},
        "<|pad|>": {"id": "<|pad|>", "ids": [6], "tokens": ["<|pad|>"]},
    },
}
WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {"[UNK]": 0, "a": 1, "##b": 2},
}
WORD_LEVEL = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}}
UNIGRAM = {
    "type": "Unigram",
    "unk_id": 0,
    "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -2.5]],
    "byte_fallback": False,
}


@dataclass(frozen=True)
class Shape:
    """A tokenizer made by hand, and what is to become of it.

    Attributes:
        make: its parsed tokenizer.json.
        reason: part of why the reference encodes; None where the fast engine may.
        control: the same when special tokens in text are control; "": as `reason`.
    """

    name: str
    make: Callable[[], dict[str, Any]]
    reason: str | None
    control: str | None = ""

    def reason_for(self, special_tokens: str) -> str | None:
        """`reason` when special tokens in text are treated so."""
        return self.control if special_tokens == "control" and self.control != "" else self.reason


def _base() -> dict[str, Any]:
    """Llama 3's shape with few merges, so that it loads fast."""
    return pair_tokenizer(SPLITS["Llama 3"], merged="Ġ'abzAZxyLVe12345<|>[]ndpPIN")


def _family(split: str | None) -> Callable[[], dict[str, Any]]:
    return partial(pair_tokenizer, split)


def _nfc(split: str) -> Callable[[], dict[str, Any]]:
    return lambda: changed(pair_tokenizer(split), "normalizer", {"type": "NFC"})


def _llama3(path: str, value: Any) -> Callable[[], dict[str, Any]]:
    """Llama 3's shape with one thing changed."""
    return lambda: changed(_base(), path, value)


def _pre_tokenizers(*before: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Llama 3's shape with more steps before its own."""

    def make() -> dict[str, Any]:
        base = _base()
        steps = [*before, *base["pre_tokenizer"]["pretokenizers"]]
        return changed(base, "pre_tokenizer.pretokenizers", steps)

    return make


def _deepseek() -> dict[str, Any]:
    base = pair_tokenizer(SPLITS["Llama 3"])
    byte_level = base["pre_tokenizer"]["pretokenizers"][1]
    splits = [split_then(part, byte_level)["pretokenizers"][0] for part in DEEPSEEK]
    return changed(base, "pre_tokenizer.pretokenizers", [*splits, byte_level])


def _other_model(model: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {**pair_tokenizer(merged="a"), "added_tokens": [], "model": model}


def _without_some_bytes() -> dict[str, Any]:
    base = {**_base(), "added_tokens": []}
    base["model"]["merges"] = []
    return changed(base, "model.vocab", {"a": 0, "b": 1})


def _old_merges() -> dict[str, Any]:
    base = _base()
    return changed(base, "model.merges", [" ".join(pair) for pair in base["model"]["merges"]])


def _shuffled_ids() -> dict[str, Any]:
    """Ids that don't rise with the rank of the merge which makes the token."""
    base = _base()
    vocabulary = base["model"]["vocab"]
    size = len(vocabulary)
    return changed(
        base, "model.vocab", {token: id * 4099 % size for token, id in vocabulary.items()}
    )


def _gaps_in_ids() -> dict[str, Any]:
    base = _base()
    vocabulary = {token: 3 * id + 7 for token, id in base["model"]["vocab"].items()}
    numbered = [{**t, "id": 3 * t["id"] + 7} for t in base["added_tokens"]]
    return changed(changed(base, "model.vocab", vocabulary), "added_tokens", numbered)


def _duplicate_merges() -> dict[str, Any]:
    base = _base()
    merges = base["model"]["merges"]
    return changed(base, "model.merges", [*merges, *merges[:200]])


def _unreachable(ignore_merges: bool) -> dict[str, Any]:
    """Whole words in the vocabulary that no merge makes."""
    base = changed(_base(), "model.ignore_merges", ignore_merges)
    size = len(base["model"]["vocab"])
    words = ("Ġab", "Ġzz", "abz", "'LL", "ĠabzAZ", "12345", "xxxx")
    more = {word: size + number for number, word in enumerate(words)}
    numbered = [{**t, "id": t["id"] + len(more)} for t in base["added_tokens"]]
    vocabulary = {**base["model"]["vocab"], **more}
    return changed(changed(base, "model.vocab", vocabulary), "added_tokens", numbered)


def _added_in_vocabulary() -> dict[str, Any]:
    base = _base()
    known = {token["content"]: token["id"] for token in base["added_tokens"]}
    return changed(base, "model.vocab", {**base["model"]["vocab"], **known})


def _added(*tokens: tuple[str, bool], **flags: bool) -> Callable[[], dict[str, Any]]:
    """Llama 3's shape with these (content, special) as its added tokens."""

    def make() -> dict[str, Any]:
        base = _base()
        first = len(base["model"]["vocab"])
        made = [
            added(content, first + number, special=special, **flags)
            for number, (content, special) in enumerate(tokens)
        ]
        return changed(base, "added_tokens", made)

    return make


def _in_sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*normalizers]}


def _nfc_with_token(text: str) -> Callable[[], dict[str, Any]]:
    make = _added((text, False), ("<|end|>", True), normalized=True)
    return lambda: changed(make(), "normalizer", {"type": "NFC"})


FAMILIES = (
    Shape("GPT-2", _family(None), None),
    Shape("GPT-2, as a Split", _family(GPT2_SPLIT), None),
    Shape("Llama 3, Olmo 2 and 3", _family(SPLITS["Llama 3"]), None),
    Shape("Qwen 2 and 3", _nfc(SPLITS["Qwen 2"]), None),
    Shape("Qwen 3.5", _nfc(SPLITS["Qwen 3.5"]), None),
    Shape("Qwen 2 and 3, without NFC", _family(SPLITS["Qwen 2"]), None),
    Shape("o200k", _family(SPLITS["o200k"]), None),
    Shape("Nemotron", _family(SPLITS["Nemotron"]), None),
    Shape("DeepSeek V3", _deepseek, None),
    Shape("Llama 2", partial(sentencepiece_tokenizer, "Llama 2"), None),
    Shape("Mistral", partial(sentencepiece_tokenizer, "Mistral"), None),
    Shape("Gemma", partial(sentencepiece_tokenizer, "Gemma"), None),
    Shape("Gemma 1", partial(sentencepiece_tokenizer, "Gemma 1"), None),
    # gigatoken parts from HF where a text ends in spaces behind a line's end, and elsewhere.
    Shape("cl100k", _family(CL100K), "split pattern is not one of those proved equal"),
    Shape("cl100k, possessive", _family(CL100K_POSSESSIVE), "split pattern is not one"),
    Shape("Kimi", _family(KIMI), "split pattern is not one of those proved equal"),
)

MODELS = (
    Shape("merges as old files write them", _old_merges, None),
    Shape("ids in another order than merges", _shuffled_ids, None),
    Shape("gaps in the ids", _gaps_in_ids, "gaps"),
    Shape("merges that come twice", _duplicate_merges, "merges that come twice"),
    Shape("tokens no merge makes", partial(_unreachable, False), None),
    Shape("tokens no merge makes, ignore_merges", partial(_unreachable, True), None),
    Shape("templates with BOS and EOS", _llama3("post_processor", TEMPLATE), None),
    Shape("some bytes missing", _without_some_bytes, "254 of the 256 bytes"),
    Shape("dropout", _llama3("model.dropout", 0.1), "dropout"),
    Shape("unk_token", _llama3("model.unk_token", "<|end|>"), "unk_token"),
    Shape("fuse_unk", _llama3("model.fuse_unk", True), "fuse_unk"),
    Shape("end_of_word_suffix", _llama3("model.end_of_word_suffix", "</w>"), "end_of_word_suffix"),
    Shape("continuing_subword_prefix", _llama3("model.continuing_subword_prefix", "##"), "prefix"),
    Shape("WordPiece", _other_model(WORDPIECE), "WordPiece"),
    Shape("WordLevel", _other_model(WORD_LEVEL), "WordLevel"),
    Shape("Unigram", _other_model(UNIGRAM), "Unigram"),
)

NFC = {"type": "NFC"}
NORMALIZERS = (
    Shape("NFC", _llama3("normalizer", NFC), None),
    Shape("NFC in a sequence", _llama3("normalizer", _in_sequence(NFC)), None),
    Shape("an empty sequence of normalizers", _llama3("normalizer", _in_sequence()), None),
    Shape("NFC that changes an added token", _nfc_with_token("e\u0301"), "NFC, changes the added"),
    Shape("NFC and normalized added tokens", _nfc_with_token("[É]"), None),
    Shape("NFD", _llama3("normalizer", {"type": "NFD"}), "normalizes text (NFD)"),
    Shape("NFKC", _llama3("normalizer", {"type": "NFKC"}), "normalizes text (NFKC)"),
    Shape("Lowercase", _llama3("normalizer", {"type": "Lowercase"}), "(Lowercase)"),
    Shape("NFC, Lowercase", _llama3("normalizer", _in_sequence(NFC, {"type": "Lowercase"})),
          "normalizes text (NFC, Lowercase)"),
)  # fmt: skip

WORDS = (
    Shape("Digits before a known Split", _pre_tokenizers(DIGITS), "Digits"),
    Shape("two Splits", _pre_tokenizers(split_then("x", {})["pretokenizers"][0]), "Split + Split"),
    Shape("an unknown Split", _family(r"\w+"), "split pattern"),
    Shape("Split that removes", _llama3("pre_tokenizer.pretokenizers.0.behavior", "Removed"),
          "Removed"),
    Shape("Split inverted", _llama3("pre_tokenizer.pretokenizers.0.invert", True), "inverted"),
    Shape("Split by a string", _llama3("pre_tokenizer.pretokenizers.0.pattern", {"String": " "}),
          "split pattern"),
    Shape("a space before text", _llama3("pre_tokenizer.pretokenizers.1.add_prefix_space", True),
          "space before text"),
    Shape("Split, then GPT-2's", _llama3("pre_tokenizer.pretokenizers.1.use_regex", True),
          "splits once more"),
    Shape("no words", _llama3("pre_tokenizer", None), "doesn't split"),
    Shape("no words, byte fallback", partial(sentencepiece_tokenizer, "bare"),
          "a combination not proved equal"),
    Shape("Metaspace always", partial(sentencepiece_tokenizer, "always"),
          "a combination not proved equal"),
)  # fmt: skip

ADDED = (
    Shape("added tokens not marked special", _added(("<|a|>", False), ("<|b|>", False)), None),
    Shape("all added tokens normalized", _added(("<|a|>", True), ("[B]", False), normalized=True),
          None),
    Shape("no added tokens", _added(), None),
    Shape("one begins with another", _added(("<|end|>", True), ("<|end|>x", True)), None),
    Shape("one within another", _added(("<|end|>", False), ("end", False)), None),
    Shape("overlapping, all special", _added(("<a><b>", True), ("<b><c>", True)), None),
    Shape("special overlaps plain", _added(("<a><b>", True), ("<b><c>", False)), "overlaps", None),
    Shape("single_word", _llama3("added_tokens.0.single_word", True), "single_word"),
    Shape("lstrip", _llama3("added_tokens.0.lstrip", True), "lstrip"),
    Shape("rstrip", _llama3("added_tokens.0.rstrip", True), "rstrip"),
    Shape("some normalized", _llama3("added_tokens.0.normalized", True), "are normalized"),
)  # fmt: skip

SHAPES = (*FAMILIES, *MODELS, *NORMALIZERS, *WORDS, *ADDED)
