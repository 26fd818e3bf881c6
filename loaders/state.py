"""Where a loader stands, and what it saves: a handful of numbers, the same on every rank."""

from dataclasses import asdict, dataclass
from typing import Any

from loaders.order import ORDER_VERSION


@dataclass(frozen=True)
class Identity:
    """What a state is a state of. A loader continues only a state of the same identity.

    `batch_size` and the number of ranks are not in it: both may change when a run is resumed.
    """

    dataset: str
    split: str
    source: str | None
    seq_len: int
    seed: int
    shuffle: bool
    lanes: int
    version: int = ORDER_VERSION


class Progress:
    """The epoch, where its current iteration started and how far it has been delivered.

    Positions are counted in samples over all ranks. Shared by a loader, its sampler and its
    iterators; only the newest iterator moves it.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.start = 0
        self.position = 0
        self._complete = False  # the last batch was delivered: iterating again is the next epoch
        self._iterator: object | None = None

    def restart(self) -> object:
        """A new iteration, from where the last one started unless it came to its end.

        Returns a token that the iterator shows when it moves the progress.
        """
        if self._complete:
            self.go_to(self.epoch + 1, 0)
        self.position = self.start
        self._iterator = object()
        return self._iterator

    def delivered(self, iterator: object, position: int, *, last: bool) -> None:
        if iterator is self._iterator:
            self.position, self._complete = position, last

    def exhausted(self, iterator: object) -> None:
        if iterator is self._iterator:
            self.go_to(self.epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """As DistributedSampler's. The epoch it is in already keeps a restored position."""
        if epoch != self.epoch or self._complete:
            self.go_to(epoch, 0)

    def go_to(self, epoch: int, position: int) -> None:
        self.epoch, self.start, self.position = epoch, position, position
        self._iterator, self._complete = None, False


def save(identity: Identity, progress: Progress) -> dict[str, Any]:
    """The state: identity, epoch and position."""
    return {**asdict(identity), "epoch": progress.epoch, "position": progress.position}


def load(state: dict[str, Any], identity: Identity, samples: int) -> tuple[int, int]:
    """Epoch and position of a saved state.

    Raises:
        ValueError: it is not a state, or one of something else; both values are named.
    """
    mine = asdict(identity)
    wanted = {*mine, "epoch", "position"}
    if not isinstance(state, dict) or set(state) != wanted:
        has = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"not a loader's state: it has {has}, expected {sorted(wanted)}")
    for name, value in mine.items():
        if state[name] != value:
            raise ValueError(
                f"this state was saved with {name} = {state[name]!r}, this loader has {value!r}: "
                "the order of samples would be another. Make the loader as it was when the state "
                "was saved, or start a new run."
            )
    epoch, position = state["epoch"], state["position"]
    if not all(type(number) is int and number >= 0 for number in (epoch, position)):
        raise ValueError(f"not a loader's state: epoch {epoch!r}, position {position!r}")
    if position > samples:
        raise ValueError(f"the state's position {position} lies behind the {samples} samples")
    return epoch, position
