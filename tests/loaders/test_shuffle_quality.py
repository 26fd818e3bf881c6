"""How well an epoch is mixed: as a true shuffle of the same blocks and windows would."""

import numpy as np
import pytest

from loaders import order as order_module
from loaders.order import Order

ROW = 4096
SAMPLES = 20_480
SHARDS, IN_SHARD, POSITIONS = 20, 4, 32
SEEDS = 40


def true_permute(index: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """`permute` with numpy's shuffle in the place of the keyed one."""
    sizes = np.broadcast_to(np.asarray(size), index.shape)
    keys = np.broadcast_to(key, index.shape)
    out = np.empty(index.shape, np.uint64)
    pairs, which = np.unique(np.stack([keys, sizes.astype(np.uint64)]), axis=1, return_inverse=True)
    for number, (one, length) in enumerate(pairs.T.tolist()):
        mine = which == number
        out[mine] = np.random.default_rng(one).permutation(length)[index[mine].astype(np.int64)]
    return out


def epochs(lanes: int) -> list[np.ndarray]:
    everything = np.arange(SAMPLES)
    return [Order(SAMPLES, ROW, lanes, seed=seed).sample_at(0, everything) for seed in range(SEEDS)]


def spread(samples: np.ndarray) -> float:
    """Chi-square of (position in the epoch, source shard, position in the shard): how unevenly each
    stretch of every shard is spread over the epoch.
    """
    place = samples * SHARDS * IN_SHARD // SAMPLES
    when = np.arange(SAMPLES) * POSITIONS // SAMPLES
    counts = np.bincount(when * SHARDS * IN_SHARD + place, minlength=POSITIONS * SHARDS * IN_SHARD)
    expected = SAMPLES / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


def neighbours(samples: np.ndarray) -> float:
    """Correlation of each sample's place in the stream with the next one's."""
    return float(np.corrcoef(samples[:-1], samples[1:])[0, 1])


def drift(samples: np.ndarray) -> float:
    """Correlation of a sample's place in the stream with its position in the epoch."""
    return float(np.corrcoef(samples, np.arange(samples.size))[0, 1])


def distance(mine: list[float], true: list[float]) -> float:
    """Kolmogorov's and Smirnov's: the largest gap between the two distribution functions."""
    both = np.sort(np.concatenate([mine, true]))
    below = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (mine, true)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize("lanes", [6, 24])
def test_an_epoch_is_mixed_as_a_true_shuffle_of_its_window_mixes_it(
    lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = epochs(lanes)
    monkeypatch.setattr(order_module, "permute", true_permute)
    true = epochs(lanes)
    for statistic in (spread, neighbours, drift):
        gap = distance([statistic(one) for one in mine], [statistic(one) for one in true])
        # 1 in 1000 pairs of equal distributions are farther apart (asymptotically).
        assert gap < 1.95 * np.sqrt(2 / SEEDS), (statistic.__name__, gap)


def test_without_a_window_an_epoch_is_mixed_as_a_true_shuffle_of_all_samples() -> None:
    mine = epochs(lanes=960)  # too few samples for blocks: one permutation of all
    generator = np.random.default_rng(1)
    true = [generator.permutation(SAMPLES) for _ in range(SEEDS)]
    for statistic in (spread, neighbours, drift):
        gap = distance([statistic(one) for one in mine], [statistic(one) for one in true])
        assert gap < 1.95 * np.sqrt(2 / SEEDS), (statistic.__name__, gap)


@pytest.mark.parametrize(
    ("lanes", "rows", "factor"),
    [
        (960, 256, 1),
        (240, 240, 1),
        # More rows than lanes: some come from one block, and wander together.
        (24, 256, np.sqrt(256 / 24)),
        (240, 2400, np.sqrt(2400 / 240)),
        # Never more than a block, here of 64 rows.
        (24, 6144, np.sqrt(64)),
    ],
)
def test_rows_no_more_than_lanes_are_as_mixed_as_by_a_true_shuffle_and_more_by_the_known_factor(
    lanes: int, rows: int, factor: float
) -> None:
    samples, seeds = 10**7, 300
    positions = np.arange(samples // 2, samples // 2 + rows)
    # The share of a source that is the first tenth of the stream, over many orders.
    share = [
        (Order(samples, 4 * ROW, lanes, seed=seed).sample_at(0, positions) < samples // 10).mean()
        for seed in range(seeds)
    ]
    true = np.sqrt(0.1 * 0.9 / rows)
    assert abs(np.mean(share) - 0.1) < 5 * factor * true / np.sqrt(seeds)
    # A standard deviation of 300 draws is itself known to 4 %.
    assert abs(np.std(share) / true / factor - 1) < 0.2
