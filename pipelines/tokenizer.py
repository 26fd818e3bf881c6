"""A name, folder or tokenizer.json -> the serialized tokenizer, which is all that workers get."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from shards.errors import StokerError


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as it will be used: truncation and padding switched off.

    Attributes:
        name: as the user gave it.
        blob: its tokenizer.json.
        end_id, end_text: the token written after each document; None: none is.
        begin_id, begin_text: the token written before each document; None: none is.
    """

    name: str
    blob: str
    end_id: int | None
    end_text: str | None
    begin_id: int | None = None
    begin_text: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of `blob`, hexadecimal."""
        return hashlib.sha256(self.blob.encode()).hexdigest()

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """`blob`, parsed."""
        parsed: dict[str, Any] = orjson.loads(self.blob)
        return parsed

    @cached_property
    def added_tokens(self) -> tuple[Mapping[str, Any], ...]:
        """The entries of `added_tokens`: `content`, `id`, `special` and more."""
        return tuple(self.content.get("added_tokens") or ())

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of the tokens marked special."""
        return tuple(token["content"] for token in self.added_tokens if token["special"])

    @cached_property
    def largest_id(self) -> int:
        return max(token_ids(self.content).values())


def load_tokenizer(
    name: str,
    end_token: str | None = None,
    begin_token: str | None = None,
    *,
    append_eos: bool = True,
    prepend_bos: bool = False,
) -> Tokenizer:
    """The tokenizer `name`, resolved as training code does: by `transformers.AutoTokenizer`.

    Args:
        name: Hugging Face name, folder, or path of a tokenizer.json. Code of its own is never run.
        end_token: text of the token after each document; None: its end-of-sequence token.
        begin_token: text of the token before each; None: its beginning-of-sequence token.
        append_eos, prepend_bos: whether there is such a token at all.

    Raises:
        StokerError: no such tokenizer, none with a serialized ("fast") form, one with dropout, or
            no such end or begin token.
    """
    if name.endswith(".json") or os.path.isfile(name):
        blob, eos, bos = _read(name), None, None
    else:
        blob, eos, bos = _resolve(name)
    blob, content = _untruncated(blob, name)
    if dropout := content["model"].get("dropout"):
        raise StokerError(
            f"tokenizer {name} has BPE dropout {dropout}: it gives other ids each time, so none "
            "could be written twice. Set model.dropout to null in its tokenizer.json"
        )
    ids = token_ids(content) if append_eos or prepend_bos else {}
    end: tuple[int | None, str | None] = (None, None)
    begin = end
    if append_eos:
        end = _choose(name, "end", eos if end_token is None else end_token, ids)
    if prepend_bos:
        begin = _choose(name, "begin", bos if begin_token is None else begin_token, ids)
    return Tokenizer(name, blob, *end, *begin)


def _choose(name: str, kind: str, text: str | None, ids: Mapping[str, int]) -> tuple[int, str]:
    """Id and text of the end or begin token; `kind` says which."""
    words = {"end": ("end", "--no-append-eos"), "begin": ("beginning", "--no-prepend-bos")}[kind]
    if text is None:
        raise StokerError(
            f"tokenizer {name} names no {words[0]}-of-sequence token: name the one that is to "
            f"{kind} each document with --{kind}-token, or write none with {words[1]}"
        )
    if text not in ids:
        raise StokerError(
            f"tokenizer {name} has no token {text!r}: choose another with --{kind}-token"
        )
    return ids[text], text


def token_ids(content: Mapping[str, Any]) -> dict[str, int]:
    """Id of each token of a parsed tokenizer.json, by its text; added tokens win."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [text, score] in order of id
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    return {**vocabulary, **added}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StokerError(f"tokenizer {path} can't be read: {error}") from error


def _resolve(name: str) -> tuple[str, str | None, str | None]:
    """(tokenizer.json, end and beginning of sequence) of a Hugging Face name or folder."""
    is_path = name.startswith(("/", "./", "../", "~"))
    folder = os.path.expanduser(name)
    if is_path and not os.path.isdir(folder):
        raise StokerError(f"tokenizer {name}: no such folder or file")
    # Imported here: it takes seconds, and only the driver needs it.
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        where = (
            "the folder holds no tokenizer that transformers can load"
            if os.path.isdir(folder)
            else "neither a folder here nor a Hugging Face name that could be fetched (misspelt, "
            "no network, or a gated model without HF_TOKEN)"
        )
        reason = " ".join(str(error).split())[:200]
        raise StokerError(f"tokenizer {name}: {where}: {reason}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise StokerError(
            f"tokenizer {name} has no serialized form (it is a {type(tokenizer).__name__}, in "
            "Python): convert it to a tokenizer.json first"
        )
    eos, bos = (
        None if token is None else str(token)
        for token in (tokenizer.eos_token, tokenizer.bos_token)
    )
    return backend.to_str(), eos, bos


def _has_gaps(content: Mapping[str, Any]) -> bool:
    ids = set(token_ids(content).values())
    return len(ids) <= max(ids, default=-1)


def _untruncated(blob: str, name: str) -> tuple[str, Mapping[str, Any]]:
    """`blob`, checked, with truncation and padding off, which some saved tokenizers leave on.

    Returns:
        It, and it parsed, which takes half a second of a large one.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    try:
        content: dict[str, Any] = orjson.loads(blob)
        switched_on = content.get("truncation") or content.get("padding")
        if switched_on or not content["model"].get("type") or _has_gaps(content):
            # Old files leave out what the library writes today; where ids have gaps, the library
            # numbers added tokens in its own way, whatever the file says.
            tokenizer = HuggingFaceTokenizer.from_str(blob)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            blob = str(tokenizer.to_str())
            content = orjson.loads(blob)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise StokerError(f"tokenizer {name} is no valid tokenizer.json: {reason}") from error
    return blob, content
