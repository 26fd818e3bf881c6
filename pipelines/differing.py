"""The text that the fast engine would encode otherwise than the reference, and where to cut it out.

Both class code points by tables of Unicode, and theirs are not of the same age. Only the stretch
around such a code point goes to the reference, at 1/100 of the speed: from one safe border to the
next. A border is safe where a word ends whatever stands left and right of it. In every pattern of
`allow.SPLITS`, and in DeepSeek's, no word goes on from an ASCII letter to an ASCII character but to
a letter or an apostrophe (`don't`), nor from an ASCII digit to one that is no digit; none looks
behind, and what looks ahead, `\\s+(?!\\S)`, ends in white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.text_buffers import find_from, offsets_of_text, text_of

# Code points that the two libraries class differently (new in Unicode 17), found by encoding every
# code point in several surroundings with a tokenizer that merges any two bytes, so that borders
# show: letters, digits and marks with GPT-2's and Llama 3's patterns, symbols with DeepSeek's.
# fmt: off
DIFFERING: tuple[tuple[int, int], ...] = (
    (0x88F, 0x88F), (0xC5C, 0xC5C), (0xCDC, 0xCDC), (0x1ACF, 0x1ADD),
    (0x1AE0, 0x1AEB), (0x20C1, 0x20C1), (0x2B96, 0x2B96), (0xA7CE, 0xA7CF),
    (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4), (0xA7F1, 0xA7F1), (0xFBC3, 0xFBD2),
    (0xFD90, 0xFD91), (0xFDC8, 0xFDCE), (0x10940, 0x10959), (0x10EC5, 0x10EC7),
    (0x10ED0, 0x10ED8), (0x10EFA, 0x10EFB), (0x11B60, 0x11B67), (0x11DB0, 0x11DDB),
    (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6),
    (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2), (0x1CCFA, 0x1CCFC),
    (0x1CEBA, 0x1CED0), (0x1CEE0, 0x1CEF0), (0x1E6C0, 0x1E6DE), (0x1E6E0, 0x1E6F5),
    (0x1E6FE, 0x1E6FF), (0x1F6D8, 0x1F6D8), (0x1F777, 0x1F77A), (0x1F8D0, 0x1F8D8),
    (0x1FA54, 0x1FA57), (0x1FA8A, 0x1FA8A), (0x1FA8E, 0x1FA8E), (0x1FAC8, 0x1FAC8),
    (0x1FACD, 0x1FACD), (0x1FAEA, 0x1FAEA), (0x1FAEF, 0x1FAEF), (0x1FBFA, 0x1FBFA),
    (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479),
)
# fmt: on

_AFTER_LETTER = rb"(?<=[A-Za-z])(?=[\x00-&(-@\[-`{-\x7f])"
_AFTER_DIGIT = rb"(?<=[0-9])(?=[\x00-/:-\x7f])"
# The second is for tokenizers with added tokens, as <|end_of_text|>, that the first would cut.
BORDERS = (
    re.compile(_AFTER_LETTER + b"|" + _AFTER_DIGIT),
    re.compile(b"(?<=[A-Za-z])(?= [A-Za-z])"),
)
# How far a border is looked for before the search is widened; words are short.
_NEAR = 256


def find_differing(documents: pa.LargeStringArray) -> npt.NDArray[np.int64] | None:
    """Where code points of `DIFFERING` begin in the text of all documents; None when none does.

    Returns:
        int64 [found], ascending: bytes counted from the beginning of the array's data buffer.
    """
    data = text_of(documents)
    wide = find_from(data, min(_TABLES, default=0xFF))
    if not len(wide):
        return None
    leads = data[wide]
    places: list[npt.NDArray[np.int64]] = []
    for lead, table in _TABLES.items():
        at = wide[leads == lead]
        if len(at):
            places.append(at[table[_tail_bits(data, at, 2 if lead < 0xF0 else 3)]])
    found = np.sort(np.concatenate(places)) if places else np.zeros(0, np.int64)
    return found + offsets_of_text(documents)[0] if len(found) else None


def safe_border(added_tokens: Iterable[str]) -> re.Pattern[bytes] | None:
    """The first of `BORDERS` that lies inside none of these texts of added tokens."""
    texts = [text.encode() for text in added_tokens]
    return next((border for border in BORDERS if not any(map(border.search, texts))), None)


def cut_out(
    documents: pa.LargeStringArray,
    places: npt.NDArray[np.int64],
    border: re.Pattern[bytes] | None,
) -> tuple[pa.LargeStringArray, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Cuts the documents around `places` into pieces; all others stay whole.

    Args:
        places: ascending bytes in the data buffer, at least one.
        border: where a cut is safe, see `safe_border`; None: a document is cut nowhere.

    Returns:
        The pieces, in order, without a copy of text; bool [pieces]: which hold a place; int64
        [documents + 1]: the number of each document's first piece.
    """
    offsets = offsets_of_text(documents)
    inner = np.zeros(0, np.int64)
    if border is not None:
        inner = _cuts_around(documents, offsets, places, border)
    first_piece = np.arange(len(offsets)) + np.searchsorted(inner, offsets, side="left")
    cut = np.empty(len(offsets) + len(inner), np.int64)
    own = np.zeros(len(cut), np.bool_)
    own[first_piece] = True
    cut[own], cut[~own] = offsets, inner
    pieces = pa.LargeStringArray.from_buffers(
        len(cut) - 1, pa.py_buffer(cut), documents.buffers()[2]
    )
    odd = np.zeros(len(pieces), np.bool_)
    odd[np.searchsorted(cut, places, side="right") - 1] = True
    return pieces, odd, first_piece


def _cuts_around(
    documents: pa.LargeStringArray,
    offsets: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    border: re.Pattern[bytes],
) -> npt.NDArray[np.int64]:
    """int64, ascending: the nearest safe borders on both sides of each place."""
    text = memoryview(documents.buffers()[2])
    cuts: list[int] = []
    done = -1
    for place, number in zip(
        places.tolist(), (np.searchsorted(offsets, places, side="right") - 1).tolist(), strict=True
    ):
        if place < done:
            continue
        start, stop = int(offsets[number]), int(offsets[number + 1])
        left = _border_before(text, border, max(start, done), place)
        if left is not None:
            cuts.append(left)
        right = border.search(text, place, stop)
        if right is not None:
            cuts.append(right.start())
        done = right.start() if right is not None else stop
    return np.array(sorted(set(cuts)), np.int64)


def _border_before(
    text: memoryview, border: re.Pattern[bytes], start: int, place: int
) -> int | None:
    """The last safe border in [start, place], strictly inside the document."""
    near = _NEAR
    while True:
        # Not at the document's first byte: a look behind would see the document before it.
        begin = max(start + 1, place - near)
        found = [match.start() for match in border.finditer(text, begin, place)]
        if found or begin == start + 1:
            return found[-1] if found else None
        near *= 8


def _tail_bits(
    data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """The code point's bits in the `count` bytes that follow each lead byte (valid UTF-8)."""
    bits = np.zeros(len(at), np.int64)
    for step in range(1, count + 1):
        bits = bits << 6 | data[at + step] & 0x3F
    return bits


def _lead_tables() -> dict[int, npt.NDArray[np.bool_]]:
    """By UTF-8 lead byte: which of the code points that begin with it are in `DIFFERING`."""
    tables: dict[int, npt.NDArray[np.bool_]] = {}
    for first, last in DIFFERING:
        for point in range(first, last + 1):
            lead = chr(point).encode()[0]
            bits = 12 if lead < 0xF0 else 18
            table = tables.setdefault(lead, np.zeros(1 << bits, np.bool_))
            table[point & ((1 << bits) - 1)] = True
    return tables


_TABLES = _lead_tables()
