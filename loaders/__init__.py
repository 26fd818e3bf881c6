"""Token shards to batches: a drop-in torch DataLoader with an order, a state and figures."""

from loaders.dataloader import DataLoader, TokenDataLoader
from loaders.dataset import TokenDataset
from loaders.iterator import BatchTimeout
from loaders.mixture import Mixture
from loaders.mixture_loader import MixtureLoader

__all__ = [
    "BatchTimeout",
    "DataLoader",
    "Mixture",
    "MixtureLoader",
    "TokenDataLoader",
    "TokenDataset",
]
