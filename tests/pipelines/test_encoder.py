"""The encoder of people's own Ray Data code: a column of exact ids, or an error in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import encoder as module
from pipelines.encoder import TokenEncoder
from pipelines.fast import FastEngine
from shards.errors import StokerError
from tests.pipelines.texts import mixed_text
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

HAND = pair_tokenizer(merged="Ġabcde")
END, PAD = (token["id"] for token in HAND["added_tokens"][:2])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(blob(HAND))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"eos_token": "<|end|>", "bos_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def expected(tokenizer: str) -> Callable[[list[str]], list[list[int]]]:
    """The ids that transformers gives."""
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(tokenizer)

    def encode(texts: list[str]) -> list[list[int]]:
        given_ids = reference(texts, add_special_tokens=False, split_special_tokens=True)
        ids: list[list[int]] = given_ids["input_ids"]
        return ids

    return encode


@pytest.fixture(scope="module")
def encode(tokenizer: str) -> TokenEncoder:
    return TokenEncoder(tokenizer)


@settings(max_examples=50)
@given(texts=st.lists(mixed_text, min_size=1, max_size=10))
def test_each_row_gets_the_ids_of_transformers_and_keeps_its_columns(
    texts: list[str], encode: TokenEncoder, expected: Callable[[list[str]], list[list[int]]]
) -> None:
    rows = pa.table({"number": range(len(texts)), "text": texts})
    found = encode(rows)
    assert encode.choice.engine == "gigatoken"
    assert found.schema.names == ["number", "text", "input_ids"]
    assert found.schema.field("input_ids").type.equals(pa.large_list(pa.uint32()))
    assert found["input_ids"].to_pylist() == expected(texts)
    assert found.drop(["input_ids"]).equals(rows)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_text_of_any_arrow_type_and_in_any_number_of_chunks_is_encoded(
    kind: pa.DataType, encode: TokenEncoder, expected: Callable[[list[str]], list[list[int]]]
) -> None:
    texts = ["abc", "", "é dead"]
    column = pa.chunked_array([pa.array(texts[:2]).cast(kind), pa.array(texts[2:]).cast(kind)])
    assert encode(pa.table({"text": column}))["input_ids"].to_pylist() == expected(texts)
    assert encode(pa.table({"text": column}).slice(1))["input_ids"].to_pylist() == expected(
        texts[1:]
    )


def test_no_rows_give_no_ids(encode: TokenEncoder) -> None:
    found = encode(pa.table({"text": pa.array([], pa.string())}))
    assert found.num_rows == 0
    assert "input_ids" in found.schema.names


def test_end_and_begin_tokens_are_written_when_they_are_asked_for(
    tokenizer: str, expected: Callable[[list[str]], list[list[int]]]
) -> None:
    texts = ["abc", "", "dead"]
    both = TokenEncoder(tokenizer, append_eos=True, prepend_bos=True)
    found = both(pa.table({"text": texts}))["input_ids"].to_pylist()
    assert found == [[PAD, *ids, END] for ids in expected(texts)]


def test_a_column_that_is_there_already_is_replaced(
    tokenizer: str, expected: Callable[[list[str]], list[list[int]]]
) -> None:
    rows = pa.table({"input_ids": [[1], [2]], "body": ["abc", "dead"]})
    found = TokenEncoder(tokenizer, text_column="body")(rows)
    assert found.schema.names == ["input_ids", "body"]
    assert found["input_ids"].to_pylist() == expected(["abc", "dead"])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (pa.table({"text": ["a", None]}), "a batch's row 1: null instead of text"),
        (pa.table({"text": pa.nulls(2)}), "a batch's row 0: null instead of text"),
        (pa.table({"text": [b"a", b"b", b"\xff"]}), "a batch's row 2: invalid UTF-8"),
        (pa.table({"text": [1, 2]}), r"no column 'text' of text among text \(int64\)"),
        (pa.table({"body": ["a"]}), r"among body \(string\): choose with text_column="),
        ({"text": np.array(["a"])}, "batch_format='pyarrow'"),
    ],
)
def test_what_is_no_text_is_an_error_that_says_where_and_what_to_do(
    batch: Any, words: str, encode: TokenEncoder
) -> None:
    with pytest.raises(StokerError, match=words):
        encode(batch)


def test_a_fast_engine_that_errs_is_noticed_with_the_first_batch(
    tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FastEngine):
        def encode(self, documents: pa.LargeStringArray) -> Any:
            offsets, ids = super().encode(documents)
            return offsets, ids + np.uint32(1)

    encode = TokenEncoder(tokenizer, audit=0.1)
    monkeypatch.setattr(module, "_compared", set())
    monkeypatch.setattr(module, "engine_for", lambda *_: Broken(blob(HAND), "text"))
    for _ in range(2):
        with pytest.raises(StokerError, match=r"a batch's row 0: .* engine='tokenizers'"):
            encode(pa.table({"text": ["abc"]}))


def test_what_may_not_be_encoded_fast_goes_to_the_reference_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(blob({**HAND, "normalizer": {"type": "Lowercase"}}))
    encode = TokenEncoder(str(path))
    assert (encode.choice.engine, encode.tokenizer.end_id) == ("tokenizers", None)
    assert "Lowercase" in encode.choice.reason
    with pytest.raises(StokerError, match="can't be used"):
        TokenEncoder(str(path), engine="gigatoken")


@pytest.mark.usefixtures("local_ray")
def test_map_batches_adds_the_ids(
    encode: TokenEncoder, expected: Callable[[list[str]], list[list[int]]]
) -> None:
    import ray.data

    texts = [f"abc {n} <|end|> dead" for n in range(200)]
    rows = ray.data.from_arrow(pa.table({"text": texts})).repartition(4)
    found = rows.map_batches(encode, batch_format="pyarrow").to_pandas()
    by_text = dict(zip(found["text"], map(list, found["input_ids"]), strict=True))
    assert by_text == dict(zip(texts, expected(texts), strict=True))
