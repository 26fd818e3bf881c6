"""Which engine: the fast one where it is allowed and equals the reference on the job's own text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines.allow import refusal
from pipelines.differing import DIFFERING
from pipelines.encode import Encoded, Engine, batches, reference_for
from pipelines.fast import FastEngine
from pipelines.tokenizer import Tokenizer
from shards.errors import StokerError

# Each string below is where some pair of tokenizers was seen to part, or where one would.
_ADVERSARIAL = (
    "",
    " ",
    "\n",
    "\r\n\r\n \r \n\t\v\f",
    "a" * 3000,
    "ab" * 2000 + " " + "\u4e2d" * 1500,
    " " * 600 + "x" + "\n" * 300 + "\t" * 200,
    "I'm you're WE'LL 'S 'ſ ''' don'T it''s l'l'l'd",
    "0 12 123 1234 12345678901234567890 ١٢٣٤ ⅷ ½ ²³ १२३४",
    "\x00\x01\x1f\x7f\x80\x9f\xa0\xad a\x00b",
    "line\u2028para\u2029next\x85end\u200b\u200d\ufeff\u3000x\u00a0y",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☕️",
    "e\u0301 a\u0308\u0323 \u0301x Z\u0335\u0321\u0327\u0322a\u0328\u0334l\u0341g\u0342o",
    "Straße ǅungla İstanbul ıI Ω Ω K Å ﬁn ﬀ",
    "mixed кириллицаandLatin日本語ひらがなカタカナ한국어العربية עברית ไทย हिन्दी தமிழ்",
    "camelCase HTTPServer snake_case kebab-case x=y;z++ //comment\n/* a */ #!/bin/sh\n\tif(a){b}",
    "\ufffd\ufffe\U0010ffff\ue000\U000f0000",
    "...!!!???---___***///\\\\\n\n/\r/\n ,. ;: \"'`´’“”«»",
    "  two  three   four    \n   indented\n\n\n  end  ",
)


@dataclass(frozen=True)
class Choice:
    """The engine of a job, and why in words; both go into the manifest."""

    engine: str
    reason: str


def choose_engine(
    wanted: str, tokenizer: Tokenizer, special_tokens: str, documents: pa.LargeStringArray
) -> Choice:
    """The engine for a job, the same for the same arguments.

    Args:
        wanted: "auto", "gigatoken" or "tokenizers".
        documents: a sample of the job's own.

    Raises:
        StokerError: gigatoken is wanted, but may not be used.
    """
    if wanted == "tokenizers":
        return Choice("tokenizers", "it was asked for")
    strings = pa.array(adversarial_strings(tokenizer), pa.large_string())
    reason = refusal(tokenizer.content, special_tokens) or _compare(
        tokenizer, special_tokens, pa.concat_arrays([strings, documents])
    )
    if reason is None:
        return Choice(
            "gigatoken",
            "equal to tokenizers on "
            + (f"{len(documents)} documents of this job and on " if len(documents) else "")
            + f"{len(strings)} adversarial strings",
        )
    if wanted == "gigatoken":
        raise StokerError(f"gigatoken can't be used with {tokenizer.name}: {reason}")
    return Choice("tokenizers", reason)


def adversarial_strings(tokenizer: Tokenizer) -> list[str]:
    """Strings on which engines part, among them the tokenizer's own added tokens as text."""
    texts = [token["content"] for token in tokenizer.added_tokens]
    chosen = dict.fromkeys(texts[:40] + texts[-10:])
    added = [form.replace("@", text) for text in chosen for form in ("@", "a@b", " @ \n@@")]
    newest = ["".join(chr(first) + " a" + chr(last) for first, last in DIFFERING)]
    return [*_ADVERSARIAL, *added, *(text[:-1] for text in chosen), *newest]


def _compare(
    tokenizer: Tokenizer, special_tokens: str, documents: pa.LargeStringArray
) -> str | None:
    """Where the engines part on `documents`, in words; None when they are equal."""
    reference = reference_for(tokenizer.blob, special_tokens)
    try:
        fast = FastEngine(tokenizer.blob, special_tokens)
    except StokerError as error:
        return str(error)
    for batch in batches(documents, 1 << 18):
        number = first_difference(fast.encode(batch), reference.encode(batch))
        if number is not None:
            return f"gigatoken and tokenizers encode {batch[number].as_py()[:40]!r}... differently"
    return None


def first_difference(a: Encoded, b: Encoded) -> int | None:
    """Number of the first document whose ids differ, or None."""
    if np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]):
        return None
    for number in range(len(a[0]) - 1):
        one, other = (ids[offsets[number] : offsets[number + 1]] for offsets, ids in (a, b))
        if not np.array_equal(one, other):
            return number
    raise AssertionError("offsets of equal documents differ")


def cut_sample(documents: Iterable[str], budget: int) -> pa.LargeStringArray:
    """The first documents, and the beginning of a long one, up to `budget` characters."""
    taken: list[str] = []
    for text in documents:
        if budget <= 0:
            break
        taken.append(text[:budget])
        budget -= len(taken[-1]) + 1
    return pa.array(taken, pa.large_string())


@lru_cache(maxsize=2)
def engine_for(blob: str, special_tokens: str, name: str) -> Engine:
    """The engine of this process: Ray reuses workers, and warm caches are worth a factor of two."""
    if name == "tokenizers":
        return reference_for(blob, special_tokens)
    return FastEngine(blob, special_tokens)
