"""Which sample comes when: arithmetic on an index, no state.

An epoch is one *global* sequence of positions 0..N-1, the same for every number of ranks; global
batch s holds the positions [s * G, (s + 1) * G), and rank r of R takes those with position % R ==
r. From position to sample number:

1. Samples are numbered over the token stream. A **block** is `k` consecutive samples, about 1 MiB:
   one ranged read.
2. A keyed permutation puts the blocks into a random order and deals them to `lanes`; position p
   belongs to lane p % lanes. A lane reads block after block, each in a random order of its own, so
   at any time `lanes` blocks are open and a batch mixes samples of as many places. R divides
   `lanes`, so a rank owns whole lanes and no two ranks read the same block.
3. Lane l starts l / lanes of a block into its sequence and comes back to what it skipped at its
   end. So the lanes change blocks one after the other, not all at once: the demand for bytes is
   even, and a few blocks of read-ahead are enough.
4. The blocks that do not fill a round of all lanes are dealt again in the same way in smaller
   blocks, and at last sample by sample.

Everything here is a pure function of (N, seq_len, dtype, lanes, seed, epoch, position).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from loaders.permutation import keys, permute

# Changes with the order: part of every saved state, so that a state never continues in another
# order.
ORDER_VERSION = 1
BLOCK_BYTES = 1 << 20
MIN_BLOCKS_PER_LANE = 16
DEFAULT_LANES = 960  # divisible by every world size of 2**a * 3 * 5 GPUs, a <= 6

_PURPOSE_BLOCKS = 1
_PURPOSE_INSIDE = 2

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """A stretch of an epoch dealt in blocks of one size.

    Its blocks are cut from what the level above left over (from the stream itself at level 0).
    """

    number: int
    start: int  # its first position
    samples: int  # positions it covers: lanes * rounds * block, or everything left when block is 1
    block: int  # samples in a block
    blocks: int  # whole blocks there are to choose from
    dealt: int  # blocks it covers; the others are the next level's


@dataclass(frozen=True)
class Places:
    """Where the samples of some positions lie: arrays of equal length.

    `first` and `count` are the run of samples fetched together (int64), `row` the sample's place in
    it. `opens`: no earlier position of the lane lies in this run; `closes`: no later one does.
    """

    first: Ints
    count: Ints
    row: Ints
    opens: npt.NDArray[np.bool_]
    closes: npt.NDArray[np.bool_]

    @property
    def samples(self) -> Ints:
        return self.first + self.row


@dataclass(frozen=True)
class Order:
    """The order of `samples` samples of `sample_bytes` bytes each. `shuffle=False`: position is
    sample.
    """

    samples: int
    sample_bytes: int
    lanes: int = DEFAULT_LANES
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {self.lanes}")

    @cached_property
    def block(self) -> int:
        """Samples in the largest blocks."""
        return self.levels[0].block if self.shuffle else self._stored_block

    @cached_property
    def _largest_block(self) -> int:
        return _power_of_two(BLOCK_BYTES // self.sample_bytes)

    @cached_property
    def _stored_block(self) -> int:
        return min(self._largest_block, _power_of_two(self.samples // MIN_BLOCKS_PER_LANE))

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """At most a few: block sizes fall at least 8-fold from level to level. The last one has
        block 1.
        """
        levels: list[Level] = []
        start, left = 0, self.samples
        while left:
            # A power of two, so that the small blocks of one level never straddle two blocks of the
            # level above.
            wanted = left // (self.lanes * MIN_BLOCKS_PER_LANE)
            block = min(self._largest_block, _power_of_two(wanted))
            blocks = left // block
            dealt = blocks if block == 1 else blocks // self.lanes * self.lanes
            levels.append(Level(len(levels), start, dealt * block, block, blocks, dealt))
            start, left = start + dealt * block, left - dealt * block
        return tuple(levels)

    def sample_at(self, epoch: int, positions: Ints) -> Ints:
        """The sample numbers at these positions of the epoch, in any order: int64."""
        if not self.shuffle:
            return positions
        out = np.empty_like(positions)
        for level in self.levels:
            inside = (positions >= level.start) & (positions < level.start + level.samples)
            if inside.any():
                out[inside] = self._dealt(level, epoch, positions[inside]).samples
        return out

    def places(self, epoch: int, positions: Ints, stride: int = 1) -> Places:
        """Where to read the samples at rising positions, `stride` (the world size) apart, of one
        level.
        """
        if self.shuffle:
            return self._dealt(self.level_at(int(positions[0])), epoch, positions)
        size = self.stored_run(stride)
        first = positions // size * size
        count = np.minimum(size, self.samples - first)
        row = positions - first
        return Places(first, count, row, row < stride, row + stride >= count)

    def stored_run(self, stride: int) -> int:
        """Samples read together without shuffle, by each of `stride` ranks."""
        # A block that holds a single sample for each rank is better read sample by sample.
        return self._stored_block if self._stored_block > stride else 1

    def level_at(self, position: int) -> Level:
        return next(one for one in self.levels if position < one.start + one.samples)

    def level_end(self, position: int) -> int:
        """The position at which what `position` belongs to ends."""
        if not self.shuffle:
            return self.samples
        level = self.level_at(position)
        return level.start + level.samples

    def _dealt(self, level: Level, epoch: int, positions: Ints) -> Places:
        turn = positions - level.start
        if level.block == 1:
            first = self._block_start(level, epoch, self._shuffled_block(level, epoch, turn))
            one, yes = np.ones_like(first), np.ones(first.shape, bool)
            return Places(first, one, np.zeros_like(first), yes, yes)
        k, length = level.block, level.dealt // self.lanes * level.block
        lane = turn % self.lanes
        skipped = lane * k // self.lanes  # rule 3: how far into its sequence the lane starts
        step = (turn // self.lanes + skipped) % length
        deal, inside = step // k, step % k
        # The first block of a lane is read in two parts, one at each end of the level.
        early = np.where((deal == 0) & (inside < skipped), 0, skipped)
        early[deal > 0] = 0
        count = np.where(deal > 0, k, np.where(inside < skipped, skipped, k - skipped))
        key = keys(self.seed, epoch, _PURPOSE_INSIDE, level.number, lane, deal)
        row = permute(inside - early, count if (count != k).any() else k, key).astype(np.int64)
        block = self._shuffled_block(level, epoch, deal * self.lanes + lane)
        first = self._block_start(level, epoch, block) + early
        return Places(first, count, row, inside == early, inside == early + count - 1)

    def _shuffled_block(self, level: Level, epoch: int, turn: Ints) -> Ints:
        key = keys(self.seed, epoch, _PURPOSE_BLOCKS, level.number)
        return permute(turn, level.blocks, key).astype(np.int64)

    def _block_start(self, level: Level, epoch: int, block: Ints) -> Ints:
        """The first sample of blocks of a level: up through what each level above it left over."""
        at = block * level.block
        for above in reversed(self.levels[: level.number]):
            turn = above.dealt + at // above.block
            # What lies behind the last whole block keeps its place.
            whole = np.minimum(turn, above.blocks - 1)
            block = np.where(turn < above.blocks, self._shuffled_block(above, epoch, whole), turn)
            at = block * above.block + at % above.block
        return at


def check_world_size(size: int, rank: int, lanes: int) -> None:
    """ValueError unless `size` ranks can share `lanes` and `rank` is one of them."""
    if not 0 <= rank < size:
        raise ValueError(
            f"data_parallel_rank {rank} is not one of the {size} ranks 0 to {size - 1}"
        )
    if lanes % size:
        good = [number for number in range(1, 2 * size + 1) if lanes % number == 0]
        raise ValueError(
            f"{size} data-parallel ranks cannot share {lanes} lanes evenly. World sizes that can: "
            f"{', '.join(map(str, good))}. Or choose lanes= as a multiple of {size} (and of every "
            "world size you may continue this run with: lanes cannot change within a run)."
        )


def _power_of_two(number: int) -> int:
    """The largest one that is not above `number`, at least 1."""
    return 1 << max(number.bit_length() - 1, 0)
