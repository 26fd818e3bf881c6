"""Encoding is exact or loud: both engines agree, or the fast one is out, with the reason."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import differing, fast
from pipelines.allow import SPLITS, refusal
from pipelines.choose import (
    adversarial_strings,
    choose_engine,
    cut_sample,
    engine_for,
    first_difference,
)
from pipelines.differing import BORDERS, cut_out, find_differing, safe_border
from pipelines.encode import ReferenceEngine, batches
from pipelines.fast import FastEngine
from pipelines.tokenizer import Tokenizer
from shards.errors import StokerError
from tests.pipelines.shapes import FAMILIES, Shape
from tests.pipelines.texts import documents, mixed_text
from tests.pipelines.tokenizers_by_hand import added, blob, pair_tokenizer

MODES = ("text", "control")
BASE = pair_tokenizer(SPLITS["Llama 3"])
# Those whose words end where a regular expression says.
BYTE_LEVEL = [s for s in FAMILIES if not s.reason and not s.make()["model"]["byte_fallback"]]


def tokenizer_of(content: dict[str, Any]) -> Tokenizer:
    return Tokenizer("by hand", blob(content), 0, "!")


def test_the_list_of_differing_code_points_is_needed() -> None:
    quick, reference = FastEngine(blob(BASE), "text"), ReferenceEngine(blob(BASE), "text")
    letter = documents("a\u088fb")
    raw = quick._encode_fast(letter)
    assert first_difference(raw, reference.encode(letter)) == 0


def characters_at(texts: pa.LargeStringArray) -> list[str]:
    found = find_differing(texts)
    assert found is not None
    data = bytes(texts.buffers()[2])
    return [data[at : at + 4].decode("utf-8", "ignore")[0] for at in found]


def test_differing_code_points_are_found_whatever_slice_they_lie_in() -> None:
    texts = documents("x", "a\u0c5c", "😀 \u4e2d", "", "y\U00033479", "\u0c5d \U0003347a")
    assert characters_at(texts) == ["\u0c5c", "\U00033479"]
    assert characters_at(texts.slice(2, 3)) == ["\U00033479"]
    assert find_differing(texts.slice(2, 2)) is None
    assert find_differing(texts.slice(5)) is None
    assert find_differing(documents()) is None


ODD = "\u0c5c"


@pytest.mark.parametrize(
    ("border", "text", "pieces"),
    [
        (1, f"one two {ODD} three four", ["one", f" two {ODD} three", " four"]),
        (1, f"{ODD} three four", [f"{ODD} three", " four"]),
        (1, f"one two {ODD}", ["one", f" two {ODD}"]),
        (1, f"one {ODD}{ODD} two {ODD} x y z", [f"one {ODD}{ODD} two {ODD} x", " y z"]),
        (1, f"one two {ODD} a b c {ODD}", ["one", f" two {ODD} a", " b", f" c {ODD}"]),
        (1, f"o\nt {ODD} 1 2  x  y", [f"o\nt {ODD} 1 2  x  y"]),
        (1, "x " * 400 + ODD + " y" * 400, ["x" + " x" * 398, f" x {ODD} y", " y" * 399]),
        (0, f"a, b {ODD}\nit's 12x", ["a, b", f" {ODD}\nit's", " 12x"]),
        (0, f"a 1{ODD}don't", ["a", f" 1{ODD}don't"]),
        (0, f"a 12;{ODD}3)", ["a 12", f";{ODD}3", ")"]),
    ],
)
def test_only_the_stretch_between_two_safe_borders_goes_to_the_reference(
    border: int, text: str, pieces: list[str]
) -> None:
    texts = documents("before", text, "", " after").slice(1)
    places = find_differing(texts)
    assert places is not None
    cut, odd, first_piece = cut_out(texts, places, BORDERS[border])
    assert cut.to_pylist() == [*pieces, "", " after"]
    assert [piece.as_py() for piece in cut.filter(pa.array(odd))] == [p for p in pieces if ODD in p]
    assert first_piece.tolist() == [0, len(pieces), len(pieces) + 1, len(pieces) + 2]


def test_an_added_token_that_reaches_over_a_border_keeps_documents_whole() -> None:
    content = pair_tokenizer()
    token = {**content["added_tokens"][0], "content": "two words", "special": False}
    content["added_tokens"].append(token | {"id": max(content["model"]["vocab"].values()) + 2})
    texts = documents(f"one two words {ODD} three two words")
    quick, reference = FastEngine(blob(content), "text"), ReferenceEngine(blob(content), "text")
    assert quick._border is None
    assert first_difference(quick.encode(texts), reference.encode(texts)) is None


def test_a_border_lies_inside_no_added_token() -> None:
    assert safe_border(["a", "\n\n"]) is BORDERS[0]
    assert safe_border(["<|end_of_text|>"]) is BORDERS[1]
    assert safe_border(["two words"]) is None


@cache
def without_added_tokens(shape: Shape) -> ReferenceEngine:
    return ReferenceEngine(blob(shape.make() | {"added_tokens": []}), "text")


@pytest.mark.parametrize("border", BORDERS, ids=["wide", "narrow"])
@pytest.mark.parametrize("shape", BYTE_LEVEL, ids=lambda shape: shape.name)
@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from([*"aB 1'é\n\r!;_", "  ", "'s", "12", "\u00a0", "\u0301", ODD]) | mixed_text,
        max_size=30,
    )
)
def test_text_cut_at_its_safe_borders_has_the_same_ids(
    shape: Shape, border: re.Pattern[bytes], parts: list[str]
) -> None:
    """Every border at once, also where no odd code point asks for it: no id may change."""
    reference = without_added_tokens(shape)
    text = "".join(parts).encode("utf-8", "ignore").decode()
    cuts = [0, *(match.start() for match in border.finditer(text.encode())), len(text.encode())]
    pieces = documents(*(text.encode()[a:b].decode() for a, b in pairwise(cuts)))
    whole = reference.encode(documents(text))[1]
    assert np.array_equal(reference.encode(pieces)[1], whole)


def test_a_special_token_in_the_text_is_text_or_control_as_asked() -> None:
    content = pair_tokenizer()
    end = content["added_tokens"][0]["id"]
    for engine in ("gigatoken", "tokenizers"):
        as_text = engine_for(blob(content), "text", engine).encode(documents("a<|end|>"))[1]
        control = engine_for(blob(content), "control", engine).encode(documents("a<|end|>"))[1]
        assert end not in as_text
        assert control.tolist()[-1] == end


@pytest.mark.parametrize("mode", MODES)
def test_a_listed_tokenizer_uses_the_fast_engine_and_says_on_what_it_was_compared(
    mode: str,
) -> None:
    choice = choose_engine("auto", tokenizer_of(BASE), mode, documents("one", "two"))
    assert choice.engine == "gigatoken"
    assert "2 documents of this job" in choice.reason


def test_an_engine_that_differs_on_the_jobs_own_text_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list of differing code points is emptied: what it guards against must then be noticed."""
    monkeypatch.setattr(differing, "_TABLES", {})
    choice = choose_engine("auto", tokenizer_of(BASE), "text", documents("fine", "a\u088fb"))
    assert choice.engine == "tokenizers"
    assert "differently" in choice.reason


def test_a_stretch_too_long_for_the_reference_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "LONGEST_FOR_REFERENCE", 1000)
    quick = FastEngine(blob(BASE), "text")
    assert len(quick.encode(documents("word " * 1000 + ODD + " word" * 1000))[1])
    with pytest.raises(StokerError, match=r"a document has .* --engine tokenizers sets"):
        quick.encode(documents(ODD * 1000))


def test_the_reference_can_be_asked_for() -> None:
    choice = choose_engine("tokenizers", tokenizer_of(BASE), "text", documents())
    assert choice == choose_engine("tokenizers", tokenizer_of(BASE), "text", documents("x"))
    assert choice.engine == "tokenizers"


def test_a_panic_of_the_fast_engine_costs_time_but_no_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = FastEngine(blob(BASE), "text")
    texts = documents("one", "two")
    panic = type("PanicException", (BaseException,), {})

    class Broken:
        def encode_batch(self, *_: object, **__: object) -> None:
            raise panic("index out of bounds")

    quick._tokenizer = Broken()
    expected = ReferenceEngine(blob(BASE), "text").encode(texts)
    assert first_difference(quick.encode(texts), expected) is None
    assert not isinstance(quick._tokenizer, Broken), "a tokenizer that panicked is built anew"


def test_the_fast_engine_forgets_its_caches_before_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "_CACHE_BYTES", 8 << 20)
    quick = FastEngine(blob(BASE), "text")
    first = quick._tokenizer
    rng = np.random.default_rng(0)
    for _ in range(30):
        words = rng.integers(97, 123, (200_000, 9), np.uint8)
        words[:, 8] = 32
        quick.encode(documents(words.tobytes().decode()))
        if quick._tokenizer is not first:
            return
    pytest.fail("54 MB of new words and never rebuilt")


def test_adversarial_strings_hold_every_kind_of_added_token() -> None:
    strings = "".join(adversarial_strings(tokenizer_of(BASE)))
    assert all(token["content"] in strings for token in BASE["added_tokens"])


@given(
    texts=st.lists(st.text(max_size=8), max_size=12), size=st.integers(min_value=1, max_value=40)
)
def test_batches_are_the_documents_in_order(texts: list[str], size: int) -> None:
    cut = list(batches(documents(*texts), size))
    assert [text for batch in cut for text in batch.to_pylist()] == texts
    assert all(len(batch) == 1 or len("".join(batch.to_pylist()).encode()) <= size for batch in cut)


def test_a_sample_takes_the_beginning_of_a_document_that_is_too_long() -> None:
    assert cut_sample(iter(["abc", "d" * 100, "e"]), 10).to_pylist() == ["abc", "d" * 6]


@pytest.mark.parametrize("name", ["gpt2", "llama-3"])
def test_real_tokenizers_are_on_the_list(name: str, shared: Path) -> None:
    content = json.loads((shared / "data" / "tokenizers" / name / "tokenizer.json").read_text())
    for mode in MODES:
        assert refusal(content, mode) is None


def test_an_added_token_by_hand_is_as_the_library_writes_it() -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    parsed = json.loads(HuggingFaceTokenizer.from_str(blob(BASE)).to_str())
    assert parsed["added_tokens"][0] == added("<|end|>", BASE["added_tokens"][0]["id"])
