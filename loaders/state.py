"""Where a loader stands, and what it saves: a handful of numbers, the same on every rank."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from loaders.order import ORDER_VERSION
from loaders.parts import History
from loaders.whole import whole

# Changes with the fields of a state or their meaning.
STATE_FORMAT = 2


@dataclass(frozen=True)
class Identity:
    """What a state is a state of. A loader continues only a state of the same identity.

    `batch_size`, `seq_len` and the number of ranks are not in it: they may change when a run is
    resumed.
    """

    dataset: str
    split: str
    source: str | None
    max_seq_len: int
    seed: int
    shuffle: bool
    lanes: int
    packing: str = "concat"
    order_version: int = ORDER_VERSION
    format: int = STATE_FORMAT


@dataclass(frozen=True)
class Place:
    """Where an epoch stands: `position` rows of `seq_len` over all ranks are read.

    `begun`: how the round in which the position lies was read before `seq_len` changed, mostly
    empty (see `loaders.parts`). `global_batch`: rows of a batch over all ranks, for whoever asks
    later which batch was which; nothing depends on it.
    """

    epoch: int
    position: int
    seq_len: int
    global_batch: int
    begun: History = ()


class Progress:
    """The epoch, where its current iteration started and how far it has been delivered.

    Positions are counted in rows over all ranks. Shared by a loader, its sampler and its iterators;
    only the newest iterator moves it.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.start = 0
        self.position = 0
        self._begun: tuple[History, int] = ((), 0)
        self._complete = False  # the last batch was delivered: iterating again is the next epoch
        self._iterator: object | None = None
        self.on_another_epoch: Callable[[], None] = lambda: None  # called when set_epoch moves

    def restart(self) -> object:
        """A new iteration, from where the last one started unless it came to its end.

        Returns a token that the iterator shows when it moves the progress.
        """
        if self._complete:
            self.go_to(self.epoch + 1, 0)
        self.position = self.start
        self._iterator = object()
        return self._iterator

    def go_on(self) -> None:
        """The next iteration starts behind the last batch that was delivered."""
        if not self._complete:
            self.start = self.position

    def delivered(self, iterator: object, position: int, *, last: bool) -> None:
        if iterator is self._iterator:
            self.position, self._complete = position, last

    def exhausted(self, iterator: object) -> None:
        if iterator is self._iterator:
            self.go_to(self.epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """As DistributedSampler's. The epoch it is in already keeps a restored position."""
        epoch = whole("epoch", epoch, 0)
        if epoch != self.epoch or self._complete:
            self.go_to(epoch, 0)
            self.on_another_epoch()

    def begun(self, position: int) -> History:
        """That of the `Place` at a position of this epoch."""
        history, until = self._begun
        return history if position < until else ()

    def go_to(
        self, epoch: int, position: int, begun: History = (), until: int = 0, *, last: bool = False
    ) -> None:
        """`begun` holds for positions below `until`; `last`: the epoch's last batch is read."""
        self.epoch, self.start, self.position = epoch, position, position
        self._begun = (begun, until)
        self._iterator, self._complete = None, last

    def skip_to(self, epoch: int, position: int, *, last: bool) -> None:
        """As if all batches up to there had been delivered; `last`: of that epoch."""
        begun = self._begun if epoch == self.epoch else ((), 0)
        self.go_to(epoch, position, *begun, last=last)


def save(identity: Identity, place: Place) -> dict[str, Any]:
    """The state: plain numbers and names, and a list that is mostly empty."""
    begun = [list(pair) for pair in place.begun]
    return {**asdict(identity), **asdict(place), "begun": begun}


def load(state: dict[str, Any]) -> tuple[dict[str, Any], Place]:
    """What a state is a state of, for `check`, and the place.

    Raises:
        ValueError: it is not a state, or one of another format; both are named.
    """
    identity = set(Identity.__dataclass_fields__)
    place = set(Place.__dataclass_fields__)
    if not isinstance(state, dict):
        raise ValueError(f"not a loader's state: it is a {type(state).__name__}, expected a dict")
    if "mixture_format" in state:
        raise ValueError(
            "this is the state of a Mixture's loader; what reads it here is for one dataset"
        )
    version = state.get("format", 1 if "version" in state else STATE_FORMAT)
    if version != STATE_FORMAT:
        raise ValueError(
            f"this state is of format {version!r}, this loader reads format {STATE_FORMAT}: "
            "continue the run with the version that saved it"
        )
    wrong = set(state) ^ (identity | place)
    if wrong - {"packing"}:
        missing, unknown = sorted(wrong - set(state)), sorted(map(str, wrong & set(state)))
        raise ValueError(f"not a loader's state: missing {missing}, unknown {unknown}")
    state = {"packing": Identity.packing, **state}  # those of before there was any other
    _check_place(state)
    begun = tuple((seq_len, rows) for seq_len, rows in state["begun"])
    found = Place(**{**{name: state[name] for name in place}, "begun": begun})
    return {name: state[name] for name in identity}, found


def check(saved: dict[str, Any], mine: Identity) -> None:
    """ValueError unless a state's identity is this one; the message names both."""
    for name, value in asdict(mine).items():
        if saved[name] != value:
            raise ValueError(
                f"this state was saved with {name} = {saved[name]!r}, this loader has {value!r}: "
                "the order of samples would be another. Make the loader as it was when the state "
                "was saved, or start a new run."
            )


def _check_place(state: dict[str, Any]) -> None:
    epoch, position = state["epoch"], state["position"]
    if not all(type(number) is int and number >= 0 for number in (epoch, position)):
        raise ValueError(f"not a loader's state: epoch {epoch!r}, position {position!r}")
    begun = state["begun"]
    pairs = [*begun] if isinstance(begun, list | tuple) else [begun]
    good = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    numbers = [state["max_seq_len"], state["seq_len"], state["global_batch"]]
    numbers += [number for pair in pairs for number in pair] if good else []
    if not good or not all(type(number) is int and number >= 1 for number in numbers):
        raise ValueError(
            f"not a loader's state: max_seq_len {state['max_seq_len']!r}, "
            f"seq_len {state['seq_len']!r}, global_batch {state['global_batch']!r}, begun {begun!r}"
        )
    for seq_len in (state["seq_len"], *(pair[0] for pair in pairs)):
        if state["max_seq_len"] % seq_len:
            raise ValueError(
                f"not a loader's state: seq_len {seq_len} doesn't divide max_seq_len "
                f"{state['max_seq_len']}"
            )
