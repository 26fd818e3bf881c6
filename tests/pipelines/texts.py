"""Texts on which encoders part: what hypothesis draws from."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import strategies as st

from pipelines.differing import DIFFERING

# Pieces that meet each other in any order: scripts, marks, controls, ends of lines, special tokens
# as text, long words, and one code point of each range that the engines class otherwise.
_LETTERS = "'s 'LL 'Ve ſ K İ ß e\u0301 \u0301 Ж 中 あ 한 ا अ ि é ▁ ½ ٣ ⅷ ǅ ʰ 😀 👍🏽 👩\u200d👧"
_ODD = "\ufe0f \u200d \u2028 \x85 \xa0 \u3000 \x00 \x1c \ufeff \ufffd \u1100 \u1161 \u212b \u0958"
_TOKENS = "<|end|> <|end| [PLAIN] <|pad|>[PLAIN] <a><b><c> <|a|> [B] <s> </s> <td> <0x0A> [É]"
WORDS = (
    *"abzAZ09 '\n\r\t\v\f.,!?/\\-_(){}<|>",
    *" ".join((_LETTERS, _ODD, _TOKENS, "[E\u0301]")).split(" "),
    *("  ", "   ", "▁▁▁", "\r\n", "\n\n", "\n\n\n", "12345", "x" * 70, "ab" * 3000),
    *(chr(first) for first, _ in DIFFERING),
)
mixed_text = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=60).map("".join)
)


def documents(*texts: str) -> pa.LargeStringArray:
    """These texts as a batch."""
    return pa.array(texts, pa.large_string())
