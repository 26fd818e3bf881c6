"""The bytes of many texts at once: what is found in them, and where they lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text_buffers import _BLOCK, find_from, offsets_of_text, text_of


@given(
    size=st.integers(0, 3 * _BLOCK),
    least=st.integers(1, 255),
    large=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=9),
)
def test_bytes_are_found_in_whatever_block_they_are(
    size: int, least: int, large: list[tuple[float, int]]
) -> None:
    text = np.zeros(size, np.uint8)
    for place, value in large:
        if size:
            text[int(place * size)] = value
    assert find_from(text, least).tolist() == np.flatnonzero(text >= least).tolist()


@given(texts=st.lists(st.text(max_size=5), max_size=9), start=st.integers(0, 9))
def test_the_text_of_a_slice_is_that_of_its_documents(texts: list[str], start: int) -> None:
    documents = pa.array(texts, pa.large_string()).slice(start)
    encoded = [text.encode() for text in texts[start:]]
    assert text_of(documents).tobytes() == b"".join(encoded)
    assert np.diff(offsets_of_text(documents)).tolist() == [*map(len, encoded)]
