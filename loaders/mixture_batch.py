"""Rows of several sources -> a batch of its own memory."""

from collections.abc import Sequence

import numpy as np
import torch

from loaders.blocks import IGNORED
from loaders.mixture_deal import places
from loaders.mixture_rows import Piece
from loaders.slabs import Slabs


def batch_of(
    pieces: Sequence[Sequence[Piece]], rows: int, most_rows: int, slabs: Slabs
) -> dict[str, torch.Tensor]:
    """The batch's rows: those of each source spread evenly over it, padding behind them.

    Args:
        pieces: of each source, at least one row in all of them together.
        rows: of the batch, padding included.
        most_rows: that a batch has.
    """
    counts = tuple(sum(one.stop - one.start for one in some) for some in pieces)
    where = places(counts)
    given = sum(counts)
    batch = {}
    first = next(some[0] for some in pieces if some)
    for name, like in first.arrays.items():
        length = like.shape[1]
        tensor, array = slabs.take((rows, length), most_rows * length)
        padding = np.arange(array.shape[1]) if name == "position_ids" else 0
        array[given:] = IGNORED if name == "labels" else padding
        for some, place in zip(pieces, where, strict=True):
            at = 0
            for piece in some:
                end = at + piece.stop - piece.start
                array[place[at:end]] = piece.arrays[name][piece.start : piece.stop]
                at = end
        batch[name] = tensor
    return batch
