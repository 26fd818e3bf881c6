"""A tokenizer is resolved as training code resolves it, or the error says why not in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.tokenizer import Tokenizer, load_tokenizer, token_ids
from shards.errors import StokerError
from tests.pipelines.tokenizers_by_hand import blob, changed, pair_tokenizer

HAND = pair_tokenizer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(blob(HAND))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_gives_its_end_token_and_a_fingerprint(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.end_text, tokenizer.end_id) == ("<|end|>", HAND["added_tokens"][0]["id"])
    assert tokenizer.largest_id == HAND["added_tokens"][2]["id"]
    assert tokenizer.special_texts == ("<|end|>", "<|pad|>")
    assert tokenizer.fingerprint == load_tokenizer(str(folder)).fingerprint


def test_the_end_token_can_be_chosen(folder: Path) -> None:
    assert load_tokenizer(str(folder), "<|pad|>").end_id == HAND["added_tokens"][1]["id"]
    with pytest.raises(StokerError, match=r"no token 'nothing'.*--end-token"):
        load_tokenizer(str(folder), "nothing")


def test_a_bare_tokenizer_json_needs_an_end_token(folder: Path) -> None:
    path = str(folder / "tokenizer.json")
    assert load_tokenizer(path, "<|end|>").end_text == "<|end|>"
    with pytest.raises(StokerError, match=r"names no end-of-sequence token.*--end-token"):
        load_tokenizer(path)


def test_a_begin_token_is_the_tokenizers_own_or_chosen_and_only_where_it_is_asked_for(
    folder: Path,
) -> None:
    end, pad = HAND["added_tokens"][0]["id"], HAND["added_tokens"][1]["id"]
    assert load_tokenizer(str(folder)).begin_id is None
    with pytest.raises(StokerError, match=r"no beginning-of-sequence token.*--begin-token"):
        load_tokenizer(str(folder), prepend_bos=True)
    chosen = load_tokenizer(str(folder), begin_token="<|pad|>", prepend_bos=True)
    assert (chosen.begin_id, chosen.begin_text, chosen.end_id) == (pad, "<|pad|>", end)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<|pad|>"}))
    assert load_tokenizer(str(folder), prepend_bos=True).begin_id == pad


def test_without_an_end_token_none_has_to_be_named(folder: Path) -> None:
    bare = load_tokenizer(str(folder / "tokenizer.json"), append_eos=False)
    assert (bare.end_id, bare.end_text) == (None, None)


def test_truncation_and_padding_left_in_the_file_are_switched_off(tmp_path: Path) -> None:
    """Else long documents would lose their ends."""
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "tokenizer.json"
    path.write_text(blob(changed(HAND, "truncation", cut)))
    content = load_tokenizer(str(path), "<|end|>").content
    assert content["truncation"] is None
    assert content["padding"] is None


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/no-such-folder"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(StokerError, match=f"tokenizer {name}: no such folder"):
        load_tokenizer(name)


def test_an_unknown_name_is_one_line_that_names_the_network_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StokerError) as caught:
        load_tokenizer("no-such-owner/no-such-tokenizer")
    message = str(caught.value)
    assert message.startswith("tokenizer no-such-owner/no-such-tokenizer: ")
    assert "no network" in message
    assert "\n" not in message


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_damaged_tokenizer_json_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(StokerError, match=r"no valid tokenizer\.json"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


def test_unigram_ids_are_positions() -> None:
    content = {"model": {"vocab": [["<unk>", 0.0], ["a", -1.0]]}, "added_tokens": []}
    assert token_ids(content) == {"<unk>": 0, "a": 1}


def test_fingerprints_of_different_tokenizers_differ() -> None:
    a, b = (Tokenizer("t", text, 0, "x") for text in ("{}", "{ }"))
    assert a.fingerprint != b.fingerprint


def test_dropout_is_an_error_since_no_run_could_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(blob(changed(HAND, "model.dropout", 0.1)))
    with pytest.raises(StokerError, match=r"BPE dropout 0\.1.*Set model\.dropout to null"):
        load_tokenizer(str(path), "<|end|>")


def test_the_end_token_has_the_id_that_the_library_gives_it_whatever_the_file_says(
    tmp_path: Path,
) -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    path = tmp_path / "tokenizer.json"
    path.write_text(blob(changed(HAND, "added_tokens.0.id", 99_999)))
    loaded = load_tokenizer(str(path), "<|end|>")
    assert loaded.end_id == HuggingFaceTokenizer.from_str(path.read_text()).token_to_id("<|end|>")
    assert loaded.end_id != 99_999
