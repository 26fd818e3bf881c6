"""Which documents are validation: by a hash of the text, so that it never depends on the rest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

TRAIN, VALIDATION = "train", "validation"

# Of its own, so that the choice tells nothing about one made by a plain XXH3 elsewhere. It may
# never change: a document would change sides.
_SEED = 0x5374_6F6B_6572


def in_validation(documents: pa.LargeStringArray, share: float) -> npt.NDArray[np.bool_]:
    """bool [documents]: those whose text hashes into the lowest `share` of all hashes.

    A text is on the same side in every job, wherever it lies and whatever lies beside it, so a copy
    of it never leaks to the other side; and with a larger share a validation text stays one.

    Args:
        documents: no nulls.
        share: in (0, 1).
    """
    if not len(documents):
        return np.zeros(0, np.bool_)
    offsets = np.frombuffer(documents.buffers()[1], np.int64)
    borders = offsets[documents.offset : documents.offset + len(documents) + 1].tolist()
    text = memoryview(documents.buffers()[2] or b"")
    hashes = (
        xxhash.xxh3_64_intdigest(text[start:stop], _SEED) for start, stop in pairwise(borders)
    )
    return np.fromiter(hashes, np.uint64, len(documents)) < np.uint64(int(share * 2.0**64))
