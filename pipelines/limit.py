"""`--limit N`: the first N documents of each source, so that a job can be tried on a large corpus.

Listings don't say how many documents a file holds, so the driver reads from the beginning until it
has counted N; nothing behind that is touched, however large the corpus is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from pipelines.inputs import Input
from pipelines.options import ReadOptions
from pipelines.plan import SMALLEST_UNIT, Piece, cut_pieces
from pipelines.read import first_documents, read_slice


def first_pieces(
    inputs: Sequence[Input], limit: int, reading: ReadOptions, piece_bytes: int = SMALLEST_UNIT
) -> list[Piece]:
    """The slices that hold the first `limit` documents of each source; the last one says how many.

    Documents are counted as they are read: before a transform, and before any is dropped. A bad row
    is none.

    Raises:
        StokerError: a file that can't be read.
    """
    chosen: list[Piece] = []
    for _, files in groupby(inputs, key=lambda item: item.source):
        left = limit
        for source, piece in cut_pieces(files, piece_bytes, reading):
            batches = first_documents(read_slice(piece, reading), left)
            held = sum(len(batch.documents) for batch in batches)
            chosen.append((source, replace(piece, most=left) if held == left else piece))
            left -= held
            if not left:
                break
    return chosen
