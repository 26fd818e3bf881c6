"""Documents with a special token's text are counted, wherever in the text it stands."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.special_texts import SpecialTexts

SPECIALS = ("<|end|>", "<s>", "[PAD]")


@given(
    texts=st.lists(
        st.lists(st.sampled_from([*SPECIALS, "<", "<|", "|", "[", "s>", "é", "a", " "])).map(
            "".join
        )
    ),
    skipped=st.integers(0, 3),
)
def test_the_count_is_that_of_a_plain_search(texts: list[str], skipped: int) -> None:
    documents = pa.array(texts, pa.large_string()).slice(skipped)
    expected = sum(any(s in text for s in SPECIALS) for text in texts[skipped:])
    assert SpecialTexts(SPECIALS).count(documents) == expected


def test_many_special_tokens_and_those_of_one_character_are_found_too() -> None:
    documents = pa.array(["a§", "b", "<x7>"], pa.large_string())
    many = tuple(f"{c}x{n}>" for n, c in enumerate("()[]{}!<"))
    assert SpecialTexts((*many, "§")).count(documents) == 2
    assert SpecialTexts(()).count(documents) == 0
