"""What a sample is: which labels it has, whether it tells where documents begin."""

from dataclasses import dataclass
from typing import Literal, get_args

Labels = Literal["same", "next"]


@dataclass(frozen=True)
class Form:
    """The keys of a batch and how they are made of tokens, as opposed to which tokens come when.

    Attributes:
        labels: `"same"`: labels[:, t] is input_ids[:, t], and the model shifts, as HF's do;
            `"next"`: it is the token behind it, the last column's being read too.
        document_mask: position_ids and lengths of documents for attention within each; the first
            token of a document is no label then.
    """

    labels: Labels = "same"
    document_mask: bool = False

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise ValueError(
                f"labels={self.labels!r}: give 'same' (the model shifts them, as HF's do) or "
                "'next' (shifted already)"
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """What a sample has, int64 [seq_len] each."""
        return ("input_ids", "labels", *(("position_ids",) if self.document_mask else ()))

    @property
    def plain(self) -> bool:
        """input_ids and labels, both just the tokens."""
        return self == Form()
