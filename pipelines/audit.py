"""The audit: a random share of a job's documents, encoded once more by the reference.

Each unit's are compared before its receipt is written, behind the encoding: a unit that fails has
no receipt, whatever happens to the driver. A worker that draws a document loads the reference for
it, 0.55 CPU seconds and 150 MB for Llama 3's; then the default share costs 2 to 3 % of the fast
engine's encoding with warm caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encode import Encoded, Engine
from shards.errors import StokerError

# A longer document is passed over: its part would prove nothing, and the whole would cost seconds.
LARGEST_AUDITED = 1 << 20
_AROUND = 4
_OF_A_JOB = (
    "Nothing was committed, and what this run wrote can't be trusted: choose --engine tokenizers "
    "(it is another plan: another --output, or --overwrite), and please report the document"
)


@dataclass(frozen=True)
class Drawn:
    """A document as a worker encoded it.

    Attributes:
        place: its uri and where in it.
        ids: uint32, without begin and end token.
    """

    place: str
    text: str
    ids: npt.NDArray[np.uint32]


class Draw:
    """Draws documents of one unit as they go by: the same ones whenever the unit runs.

    Args:
        plan, unit: what the draw is seeded by.
        share: of the documents, 0 to 1.
    """

    def __init__(self, plan: str, unit: int, share: float) -> None:
        self.drawn: list[Drawn] = []
        self._share = share
        self._random = np.random.default_rng([int.from_bytes(plan.encode()), unit])
        # Documents until the next one that is drawn.
        self._next = self._gap() - 1 if share else 0

    def take(
        self, documents: pa.LargeStringArray, encoded: Encoded, place: Callable[[int], str]
    ) -> None:
        """Looks at a batch.

        Args:
            place: of the document with this number in the batch.
        """
        if not self._share:
            return
        offsets, ids = encoded
        while self._next < len(documents):
            text = documents[self._next]
            if text.as_buffer().size <= LARGEST_AUDITED:
                # Copied: the batch's ids are in memory that is used again.
                own = ids[offsets[self._next] : offsets[self._next + 1]].copy()
                self.drawn.append(Drawn(place(self._next), text.as_py(), own))
            self._next += self._gap()
        self._next -= len(documents)

    def _gap(self) -> int:
        return int(self._random.geometric(self._share))


def check(drawn: Sequence[Drawn], reference: Callable[[], Engine], advice: str = _OF_A_JOB) -> int:
    """Encodes what was drawn once more; the number of documents.

    Args:
        reference: the engine to compare with; asked for when there is something to compare.
        advice: what to do about a difference.

    Raises:
        StokerError: some ids are not equal; it names the first document's place.
    """
    if not drawn:
        return 0
    texts = pa.array([document.text for document in drawn], pa.large_string())
    offsets, ids = reference().encode(texts)
    for number, document in enumerate(drawn):
        expected = ids[offsets[number] : offsets[number + 1]]
        if not np.array_equal(document.ids, expected):
            raise StokerError(f"{_in_words(document, expected)}. {advice}")
    return len(drawn)


def _in_words(document: Drawn, expected: npt.NDArray[np.uint32]) -> str:
    common = min(len(document.ids), len(expected))
    unequal = np.flatnonzero(document.ids[:common] != expected[:common])
    first = int(unequal[0]) if len(unequal) else common
    around = slice(max(0, first - _AROUND), first + _AROUND + 1)
    return (
        f"{document.place}: gigatoken's ids differ from tokenizers' from token {first} on: "
        f"{_shown(document.ids, around)}, but should be {_shown(expected, around)}"
    )


def _shown(ids: npt.NDArray[np.uint32], around: slice) -> str:
    before = "... " if around.start else ""
    after = " ..." if around.stop < len(ids) else ""
    return f"[{before}{' '.join(map(str, ids[around].tolist()))}{after}]"
