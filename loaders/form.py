"""What a sample is: which labels it has."""

from dataclasses import dataclass
from typing import Literal, get_args

Labels = Literal["same", "next"]


@dataclass(frozen=True)
class Form:
    """The keys of a batch and how they are made of tokens, as opposed to which tokens come when.

    Attributes:
        labels: `"same"`: labels[:, t] is input_ids[:, t], and the model shifts, as HF's do;
            `"next"`: it is the token behind it, the last column's being read too.
    """

    labels: Labels = "same"

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise ValueError(
                f"labels={self.labels!r}: give 'same' (the model shifts them, as HF's do) or "
                "'next' (shifted already)"
            )

    @property
    def plain(self) -> bool:
        """input_ids and labels, both just the tokens."""
        return self == Form()
