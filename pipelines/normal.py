"""Which documents a tokenizer's normalizer, NFC, would change: nearly none, and those go to HF.

A document that NFC leaves alone has the same ids with and without it, and so has every part of it,
for parts of a text in NFC are in NFC. So the fast engine encodes those without a normalizer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.text_buffers import find_from, offsets_of_text, text_of

# U+0300, the first code point that NFC may touch, begins with this byte; no character below it
# has one as large.
_FIRST_LEAD = 0xCC


def normalizers(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The types of the normalizers of a parsed tokenizer.json, one after the other."""
    found = content.get("normalizer")
    if found is None:
        return ()
    if found["type"] != "Sequence":
        return (str(found["type"]),)
    return tuple(kind for one in found["normalizers"] for kind in normalizers({"normalizer": one}))


def find_unnormalized(documents: pa.LargeStringArray) -> npt.NDArray[np.bool_] | None:
    """bool [documents]: which NFC may change; None when it changes none.

    Python's tables of Unicode decide, by a quick look at each character: 0.5 GB/s of English, 50
    MB/s of Hindi. They are newer than those of HF, so a document may go to HF for nothing; never
    the other way, since neither decompositions nor classes of characters that exist ever change.
    """
    offsets = offsets_of_text(documents)
    wide = find_from(text_of(documents), _FIRST_LEAD) + offsets[0]
    if not len(wide):
        return None
    holders = np.unique(np.searchsorted(offsets, wide, side="right") - 1)
    changed = np.zeros(len(documents), np.bool_)
    for number in holders.tolist():
        changed[number] = not unicodedata.is_normalized("NFC", documents[number].as_py())
    return changed if changed.any() else None
