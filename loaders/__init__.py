"""Token shards to batches: a drop-in torch DataLoader with an order, a state and figures."""

from loaders.dataloader import DataLoader, TokenDataLoader
from loaders.dataset import TokenDataset
from loaders.iterator import BatchTimeout

__all__ = ["BatchTimeout", "DataLoader", "TokenDataLoader", "TokenDataset"]
