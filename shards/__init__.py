"""Token datasets: Arrow shards, their index, cells and manifest. The one thing both sides share."""

from shards.dataset import Dataset, open_dataset
from shards.errors import StokerError

__all__ = ["Dataset", "StokerError", "open_dataset"]
