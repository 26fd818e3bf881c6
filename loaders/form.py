"""What a sample is: how documents make rows, which labels they have, what else a batch says."""

from dataclasses import dataclass
from typing import Literal, get_args

Labels = Literal["same", "next"]
Packing = Literal["concat", "best_fit", "none"]


@dataclass(frozen=True)
class Form:
    """The keys of a batch and how they are made of tokens, as opposed to which tokens come when.

    Attributes:
        labels: `"same"`: labels[:, t] is input_ids[:, t], and the model shifts, as HF's do;
            `"next"`: it is the token behind it, the last column's being read too.
        document_mask: position_ids and lengths of documents for attention within each; the first
            token of a document is no label then.
        packing: `"concat"`: rows are cut from the stream; `"best_fit"`: of whole documents that
            fit together, padded; `"none"`: of one document or a piece of one, padded to the longest
            of the batch.
        pad_to_multiple_of: that, and then to the next multiple.
    """

    labels: Labels = "same"
    document_mask: bool = False
    packing: Packing = "concat"
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise ValueError(
                f"labels={self.labels!r}: give 'same' (the model shifts them, as HF's do) or "
                "'next' (shifted already)"
            )
        if self.packing not in get_args(Packing):
            raise ValueError(
                f"packing={self.packing!r}: there are {', '.join(map(repr, get_args(Packing)))}"
            )

        multiple = self.pad_to_multiple_of
        if multiple is not None and (self.packing != "none" or multiple < 1):
            raise ValueError(
                f"pad_to_multiple_of={multiple}: give a number of tokens, with packing='none', "
                "whose batches differ in length"
            )

    def width(self, longest: int, seq_len: int) -> int:
        """Columns of a batch whose longest row has this many tokens."""
        if self.packing != "none":
            return seq_len
        multiple = self.pad_to_multiple_of or 1
        return max(1, -(-longest // multiple)) * multiple

    @property
    def packed(self) -> bool:
        """Rows are padded, and where they lie in the stream is in a plan."""
        return self.packing != "concat"

    @property
    def keys(self) -> tuple[str, ...]:
        """What a sample has, int64 [seq_len] each."""
        if self.document_mask:
            return ("input_ids", "labels", "position_ids")
        if self.packed:
            return ("input_ids", "labels", "attention_mask")
        return ("input_ids", "labels")

    @property
    def chosen(self) -> dict[str, object]:
        """What isn't as by default, by the names of `TokenDataset`'s arguments."""
        return {name: value for name, value in vars(self).items() if value != getattr(Form, name)}

    def differs(self, other: "Form") -> str:
        """In words: the fields that are another, with both values."""
        names = [name for name in vars(self) if getattr(self, name) != getattr(other, name)]
        return ", ".join(
            f"{name} is {getattr(self, name)!r} and {getattr(other, name)!r}" for name in names
        )

    @property
    def plain(self) -> bool:
        """input_ids and labels, both just the tokens."""
        return self == Form()
