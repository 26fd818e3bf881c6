"""Exact or loud, shape by shape: the table in `shapes` is the policy, and each line of it holds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.allow import refusal
from pipelines.choose import choose_engine, first_difference
from pipelines.differing import DIFFERING
from pipelines.encode import ReferenceEngine
from pipelines.fast import FastEngine
from pipelines.tokenizer import Tokenizer
from shards.errors import StokerError
from tests.pipelines.shapes import ADDED, FAMILIES, SHAPES, Shape
from tests.pipelines.texts import documents, mixed_text
from tests.pipelines.tokenizers_by_hand import blob

MODES = ("text", "control")
# How special tokens are treated matters to added tokens alone.
BOTH_MODES = {*(shape.name for shape in ADDED), "GPT-2", "Llama 2", "Mistral", "Gemma"}
# They tell letters, digits and marks apart, and symbols and punctuation.
SCANNED = {"Llama 3, Olmo 2 and 3", "DeepSeek V3"}
CASES = [(s, mode) for s in SHAPES for mode in (MODES if s.name in BOTH_MODES else MODES[:1])]
FAST = [case for case in CASES if case[0].reason_for(case[1]) is None]
REFUSED = [case for case in CASES if case[0].reason_for(case[1]) is not None]
# What NFC changes, lines that end, words that are long, tokens as text: with whatever is drawn.
ALWAYS = ("e\u0301 \u212b", "\u1100\u1161", "a\r\n\r\n b", "<|end|>[PLAIN]</s> <td>", "x" * 3000)
DIFFERING_ENDS = documents("plain", *(f"a{chr(c)}b{chr(c)}" for ends in DIFFERING for c in ends))


def name_of(part: Any) -> str:
    return part.name if isinstance(part, Shape) else str(part)


@cache
def both_engines(shape: Shape, mode: str) -> tuple[FastEngine, ReferenceEngine]:
    content = shape.make()
    assert refusal(content, mode) is None
    text = blob(content)
    return FastEngine(text, mode), ReferenceEngine(text, mode)


@pytest.mark.parametrize(("shape", "mode"), FAST, ids=name_of)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(mixed_text, max_size=20))
def test_a_shape_that_is_let_in_gives_the_references_ids_for_any_text(
    shape: Shape, mode: str, texts: list[str]
) -> None:
    quick, reference = both_engines(shape, mode)
    batch = documents(*texts, *ALWAYS)
    assert first_difference(quick.encode(batch), reference.encode(batch)) is None


@cache
def real_engines(file: Path, mode: str) -> tuple[FastEngine, ReferenceEngine]:
    text = file.read_text()
    assert refusal(json.loads(text), mode) is None
    return FastEngine(text, mode), ReferenceEngine(text, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gpt2", "llama-3"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(mixed_text, max_size=20))
def test_real_tokenizers_give_the_references_ids_for_any_text(
    name: str, mode: str, texts: list[str], shared: Path
) -> None:
    file = shared / "data" / "tokenizers" / name / "tokenizer.json"
    quick, reference = real_engines(file, mode)
    batch = documents(*texts, "<|endoftext|> <|begin_of_text|>", "Hello's  world\r\n")
    assert first_difference(quick.encode(batch), reference.encode(batch)) is None


@pytest.mark.parametrize(("shape", "mode"), REFUSED, ids=name_of)
def test_a_shape_that_is_not_goes_to_the_reference_with_the_reason(shape: Shape, mode: str) -> None:
    reason = str(shape.reason_for(mode))
    tokenizer = Tokenizer("by hand", blob(shape.make()), 0, "!")
    choice = choose_engine("auto", tokenizer, mode, documents("some text"))
    assert choice.engine == "tokenizers"
    assert reason in choice.reason
    assert choice.reason == refusal(tokenizer.content, mode), "by the list, not by luck"
    with pytest.raises(StokerError, match="can't be used"):
        choose_engine("gigatoken", tokenizer, mode, documents("some text"))


@pytest.mark.parametrize("shape", [s for s in FAMILIES if s.reason is None], ids=name_of)
def test_a_code_point_the_fast_engine_knows_otherwise_goes_to_the_reference(shape: Shape) -> None:
    """Fails if DIFFERING isn't looked at: both encode each of its ends."""
    quick, reference = both_engines(shape, "text")
    given_ids = quick.encode(DIFFERING_ENDS)
    assert first_difference(given_ids, reference.encode(DIFFERING_ENDS)) is None


@pytest.mark.slow
@pytest.mark.parametrize("shape", [s for s in FAMILIES if s.name in SCANNED], ids=name_of)
def test_no_other_code_point_is_known_otherwise(shape: Shape) -> None:
    """Fails if DIFFERING loses a range; all but ideographs, Hangul and private use."""
    quick, reference = both_engines(shape, "text")
    left = [range(0x80, 0x3400), range(0xA000, 0xAC00), range(0xD7A4, 0xD800)]
    left += [range(0xF900, 0x20000), range(0x2A6D0, 0x34000), range(0xE0000, 0xE0200)]
    points = [chr(point) for part in left for point in part]
    for form in ("a@b", " @1", "-@\n"):
        for first in range(0, len(points), 20_000):
            batch = documents(*(form.replace("@", c) for c in points[first : first + 20_000]))
            found = first_difference(quick.encode(batch), reference.encode(batch))
            assert found is None, ascii(batch[found])


def test_every_name_in_the_table_is_there_once() -> None:
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names)
