"""Made `frozen-v1`, once. Every later version reads it; never run this again for version 1."""

import sys

import numpy as np

from tests.datasets import write_dataset

if __name__ == "__main__":
    tokens = (np.arange(70_000) * 7919 % 50_257).astype(np.uint16)
    write_dataset(
        sys.argv[1],
        [
            [tokens[:10], tokens[10:11], tokens[11:40_000]],
            [tokens[40_000:60_000]],
            [tokens[60_000:]],
        ],
        loss_masks=[(np.arange(n) % 5 > 0).astype(np.uint8) for n in (40_000, 20_000, 10_000)],
        sources=["web", "code", "web"],
        splits=["train", "train", "validation"],
    )
