"""What a person may choose about documents, besides where they are and how they are encoded."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from shards.errors import StokerError

# Columns that a shard has already.
_RESERVED = ("input_ids", "loss_mask")


@dataclass(frozen=True, kw_only=True)
class DocumentOptions:
    """The part of `options.Options` that acts on documents inside a unit.

    Attributes:
        keep_columns: names, each with or without a type: `url`, `meta.year:int`.
        append_eos: whether the end token is written after each document.
        prepend_bos: whether the begin token is written before each.
        begin_token: its text; None: the tokenizer's beginning-of-sequence token.
        min_tokens, max_tokens: of a document, without its begin and end token; others are dropped.
        shuffle_documents: seed of a permutation of the documents inside each unit.
        validation: share of documents in split `validation`, in [0, 1).
        transform: `module:function`, a `pa.Table` of rows to another.
        limit: documents of each source at most.
    """

    keep_columns: tuple[str, ...] = ()
    append_eos: bool = True
    prepend_bos: bool = False
    end_token: str | None = None
    begin_token: str | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    shuffle_documents: int | None = None
    validation: float = 0.0
    transform: str | None = None
    limit: int | None = None

    def check_documents(self, text_column: str) -> None:
        """Raises StokerError for a value that the command would refuse."""
        for name in ("min_tokens", "max_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StokerError(f"{name} is {value}: it must be positive")
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise StokerError(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}: no document "
                "would be left"
            )
        if not 0 <= self.validation < 1:
            raise StokerError(f"validation is {self.validation}: it is a share, below 1")
        if self.end_token is not None and not self.append_eos:
            raise StokerError("an end_token is named, but append_eos is off: leave one out")
        if self.begin_token is not None and not self.prepend_bos:
            raise StokerError("a begin_token is named, but prepend_bos is off: leave one out")
        if self.keep_columns:
            self._check_columns(text_column)

    def _check_columns(self, text_column: str) -> None:
        # Imported here: it brings pyarrow, which --help shouldn't wait for.
        from pipelines.columns import split_type

        names = [split_type(name)[0] for name in self.keep_columns]
        for name in names:
            if name in _RESERVED or names.count(name) > 1:
                raise StokerError(f"keep_columns names {name!r}, which a shard has already")
            if name == text_column:
                raise StokerError(
                    f"keep_columns names {name!r}, the text itself: its tokens are what is kept"
                )


def add_document_options(group: argparse._ArgumentGroup) -> None:
    """The group of the command line that `DocumentOptions` is."""
    yes_or_no = argparse.BooleanOptionalAction
    group.add_argument(
        "--append-eos",
        action=yes_or_no,
        default=True,
        help="write the end token after each document (default: --append-eos)",
    )
    group.add_argument(
        "--end-token",
        metavar="TEXT",
        help="which token that is (default: the tokenizer's end-of-sequence token)",
    )
    group.add_argument(
        "--prepend-bos",
        action=yes_or_no,
        default=False,
        help="write the begin token before each document (default: --no-prepend-bos)",
    )
    group.add_argument(
        "--begin-token",
        metavar="TEXT",
        help="which token that is (default: the tokenizer's beginning-of-sequence token)",
    )
    group.add_argument(
        "--keep-columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME[:TYPE]",
        help="columns or JSON fields kept beside each document's tokens, one value each. Their "
        "types are those of the first file, or TYPE: string, int, float, bool (default: none)",
    )
    group.add_argument(
        "--transform",
        metavar="MODULE:FUNCTION",
        help="a function of yours, from a pyarrow.Table of the text and the kept columns to "
        "another of these: it may change, drop and add rows. It gets some thousand rows at a time "
        "and must not depend on where they are cut. The module must be importable on every "
        "worker: in --working-dir, or on PYTHONPATH. The source of that one module is part of the "
        "plan; what it imports is not (default: none)",
    )
    for name, what, example in (("min", "shorter", "16"), ("max", "longer", "100000")):
        group.add_argument(
            f"--{name}-tokens",
            type=whole_number,
            metavar="N",
            help=f"drop documents {what} than this, begin and end token not counted; they are "
            f"counted as dropped. For example {example} (default: none is dropped)",
        )
    group.add_argument(
        "--validation",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="put this share of documents, for example 0.005, into split validation. A hash of the "
        "text chooses them: the same ones whatever files come, go or change places, and copies of "
        "a document are on one side (default: 0)",
    )
    group.add_argument(
        "--shuffle-documents",
        type=int,
        metavar="SEED",
        help="permute the documents inside each unit (--unit-bytes), the same way for the same "
        "SEED; a worker then holds a unit's tokens in memory, up to about 1 GB (default: as read)",
    )
    group.add_argument(
        "--limit",
        type=whole_number,
        metavar="N",
        help="take the first N documents of each source, files by name, to try a job out; they are "
        "read here once to count them (default: all)",
    )


def whole_number(text: str) -> int:
    """A positive whole number, for argparse."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write for example 0.005 or 0.5%")
    return share
