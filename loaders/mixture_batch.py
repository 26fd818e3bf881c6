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
    """The batch: each source's rows spread evenly over it, padding behind them.

    Args:
        pieces: of each source, at least one row in all of them together.
        rows: of the batch, padding included.
        most_rows: that a batch has.

    Raises:
        ValueError: the sources' rows differ in their keys or their shapes.
    """
    counts = tuple(sum(one.stop - one.start for one in some) for some in pieces)
    where = places(counts)
    given = sum(counts)
    batch = {}
    first = next(some[0] for some in pieces if some)
    for name, like in first.arrays.items():
        shape = like.shape[1:]
        if like.dtype == np.int64 and len(shape) == 1:
            tensor, array = slabs.take((rows, shape[0]), most_rows * shape[0])
        else:
            array = np.empty((rows, *shape), like.dtype)
            tensor = torch.from_numpy(array)
        for some, place in zip(pieces, where, strict=True):
            at = 0
            for piece in some:
                end = at + piece.stop - piece.start
                _check_alike(piece, first)
                array[place[at:end]] = piece.arrays[name][piece.start : piece.stop]
                at = end
        array[given:] = IGNORED if name == "labels" else 0
        batch[name] = tensor
    return batch


def _check_alike(piece: Piece, first: Piece) -> None:
    if piece.arrays is first.arrays:
        return
    mine, others = (
        {name: array.shape[1:] for name, array in one.arrays.items()} for one in (piece, first)
    )
    if mine != others:
        raise ValueError(
            f"the sources' rows differ: {mine} and {others}. Make their TokenDatasets with the "
            "same options"
        )
