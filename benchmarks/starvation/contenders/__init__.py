"""Ways to feed the same training loop: no work at all, Stoker, what others do, a person's own.

Each gives an endless iterator of batches {"input_ids", "labels"}, int64 [batch_size, seq_len]. All
but the padded ones hold the same text, packed the same way (documents one after the other, an end
token behind each, cut every seq_len).
"""

from benchmarks.starvation.contenders.contender import Contender
from benchmarks.starvation.contenders.inline import InlineTokenization, find_units
from benchmarks.starvation.contenders.own import OwnLoader
from benchmarks.starvation.contenders.padded import PaddedRows
from benchmarks.starvation.contenders.resident import ResidentBatch
from benchmarks.starvation.contenders.stoker import Stoker

__all__ = [
    "Contender",
    "InlineTokenization",
    "OwnLoader",
    "PaddedRows",
    "ResidentBatch",
    "Stoker",
    "find_units",
]
