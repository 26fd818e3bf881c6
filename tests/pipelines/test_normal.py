"""What NFC might change goes to the reference; nothing else needs to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.normal import find_unnormalized, normalizers
from tests.pipelines.texts import documents, mixed_text

# Marks of several classes, Hangul letters, what composes and what decomposes to something else.
PIECES = (
    *["a", "e", "E", "s", "́", "̣", "̸", "ͅ", "़", "र", "ᄀ", "ᅡ", "ᆨ", "가", "Å"],
    *["क़", "̀", "·", "Ω", "`", "יִ", "𝅗𝅥", "ཱི", "ᄳa", "්", "ෙ"],
)


@pytest.fixture(scope="module")
def nfc():
    from tokenizers import normalizers as library

    return library.NFC().normalize_str


def found_in(texts: pa.LargeStringArray) -> list[int]:
    found = find_unnormalized(texts)
    return [] if found is None else np.flatnonzero(found).tolist()


@pytest.mark.slow
def test_a_code_point_that_the_library_changes_is_found_alone_and_between_others(nfc) -> None:
    """All of Unicode, each behind a letter and a mark, and before marks of two classes."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for form in ("@", "a@", "e\u0301@", "@\u0301", "\u1100@", "@\u0323\u0301"):
        texts = [form.replace("@", c) for c in points]
        changed = find_unnormalized(documents(*texts))
        assert changed is not None
        left = [text for text, found in zip(texts, changed, strict=True) if not found]
        whole = "\n".join(left)
        if nfc(whole) != whole:
            pytest.fail(next(ascii(text) for text in left if nfc(text) != text))


@given(text=st.one_of(mixed_text, st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_a_text_that_is_not_found_is_one_that_the_library_leaves_alone(nfc, text: str) -> None:
    assert nfc(text) == text or found_in(documents(text)) == [0]


def test_documents_are_found_by_number_whatever_slice_they_lie_in() -> None:
    texts = documents("x", "e\u0301", "", "Ж\u0301 ж", "\u212b", "é ’ 😀 नी")
    assert found_in(texts) == [1, 4]
    assert found_in(texts.slice(2, 3)) == [2]
    assert find_unnormalized(texts.slice(5)) is None
    assert find_unnormalized(texts.slice(2, 1)) is None
    assert find_unnormalized(documents()) is None


def test_normalizers_are_listed_through_sequences() -> None:
    inner = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    nested = {"type": "Sequence", "normalizers": [inner, {"type": "NFC"}]}
    assert normalizers({"normalizer": nested}) == ("NFC", "Lowercase", "NFC")
    assert normalizers({"normalizer": None}) == normalizers({}) == ()
