"""Lines of made-up words, and a HF tokenizer that makes each word a token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

WORDS = 90
VOCABULARY = WORDS + 3


def write_tokenizer(folder: Path) -> str:
    """Write it into `folder`, as a string: its begin token is not written by it, as Llama 3's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["!", "<s>", "</s>", *(f"w{number}" for number in range(WORDS))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="!"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    whole.save_pretrained(folder)
    return str(folder)


def lines(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """A line for each length: so many words, the same for the same seed."""
    chosen = random.Random(seed)
    return [" ".join(f"w{chosen.randrange(WORDS)}" for _ in range(length)) for length in lengths]
