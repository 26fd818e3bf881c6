"""What a mixture's loader saves: where it stands, its weights, and what each source is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from loaders.mixture_shares import Shares, Stretch
from loaders.order import ORDER_VERSION
from loaders.state import Place

MIXTURE_FORMAT = 1
_FRACTION = re.compile(r"[0-9]{1,300}(/[1-9][0-9]{0,300})?")
# Of a source's own state: in the mixture's, or following from it, or where that source stands.
_NOT_OF_A_SOURCE = {
    "seed",
    "shuffle",
    "lanes",
    "order_version",
    "format",
    "max_seq_len",
    *Place.__dataclass_fields__,
}
_PLACE = ("epoch", "position", "global_batch")


@dataclass(frozen=True)
class MixtureIdentity:
    """What a mixture's state is a state of. `sources`: what each one is, by name."""

    seq_len: int
    samples: int
    seed: int
    shuffle: bool
    lanes: int
    sources: Mapping[str, Mapping[str, Any]]
    order_version: int = ORDER_VERSION
    mixture_format: int = MIXTURE_FORMAT


def source_identity(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a source is, from its own loader's state."""
    return {name: value for name, value in state.items() if name not in _NOT_OF_A_SOURCE}


def save(identity: MixtureIdentity, place: Place, stretch: Stretch) -> dict[str, Any]:
    """The state: numbers and names; weights as exact fractions, with the row they hold from."""
    names = sorted(identity.sources)
    return {
        **vars(identity),
        "sources": {name: dict(identity.sources[name]) for name in names},
        **{name: getattr(place, name) for name in _PLACE},
        "weights": dict(zip(names, map(str, stretch.shares.weights), strict=True)),
        "weights_from": stretch.start,
        "rows_before": dict(zip(names, stretch.before, strict=True)),
    }


def load(state: Any, mine: MixtureIdentity) -> tuple[Place, Stretch]:
    """Where a saved state stands, and the weights that hold there.

    Raises:
        ValueError: not a mixture's state, or one of something else; both are named.
    """
    fields = {*vars(mine), *_PLACE, "weights", "weights_from", "rows_before"}
    if not isinstance(state, dict) or set(state) != fields:
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"not a Mixture loader's state: it has {found}, expected {sorted(fields)}")
    _check_same(state, mine)
    names = sorted(mine.sources)
    numbers = [state[name] for name in (*_PLACE, "weights_from")]
    before, weights = (_listed(state[key], names, key) for key in ("rows_before", "weights"))
    if not all(type(number) is int and number >= 0 for number in (*numbers, *before)):
        raise ValueError(
            f"not a Mixture loader's state: {', '.join((*_PLACE, 'weights_from'))} are {numbers}, "
            f"rows_before {before}"
        )
    epoch, position, global_batch, start = numbers
    row = epoch * mine.samples + position
    if position > mine.samples or start > row or sum(before) != start:
        raise ValueError(
            f"not a Mixture loader's state: row {row}, weights from row {start}, {sum(before)} "
            f"rows before them, epochs of {mine.samples}"
        )
    if not all(isinstance(weight, str) and _FRACTION.fullmatch(weight) for weight in weights):
        raise ValueError(f"not a Mixture loader's state: weights {str(weights)[:200]}")
    stretch = Stretch(start, tuple(before), Shares(tuple(map(Fraction, weights))))
    return Place(epoch, position, mine.seq_len, global_batch), stretch


def _check_same(state: Mapping[str, Any], mine: MixtureIdentity) -> None:
    saved = state["sources"]
    if not isinstance(saved, dict) or sorted(saved) != sorted(mine.sources):
        names = ", ".join(sorted(map(str, saved))) if isinstance(saved, dict) else repr(saved)
        raise ValueError(_differs("sources", names, ", ".join(sorted(mine.sources))))
    for name, source in mine.sources.items():
        if saved[name] != source:
            raise ValueError(_source_differs(name, saved[name], source))
    for name, value in vars(mine).items():
        if name != "sources" and state[name] != value:
            raise ValueError(_differs(name, state[name], value))


def _differs(name: str, saved: object, mine: object) -> str:
    return (
        f"this state was saved with {name} = {saved!r}, this loader has {mine!r}: the order of "
        "samples would be another. Make the loader as it was when the state was saved, or start a "
        "new run."
    )


def _source_differs(name: str, saved: Any, mine: Mapping[str, Any]) -> str:
    """Of a source only what is another: all of it would hide that."""
    if not isinstance(saved, dict):
        return _differs(f"source {name!r}", saved, dict(mine))
    fields = [field for field in {**mine, **saved} if saved.get(field) != mine.get(field)]
    ours, others = ({field: one.get(field) for field in fields} for one in (mine, saved))
    return _differs(f"source {name!r}", others, ours)


def _listed(values: Any, names: Sequence[str], what: str) -> list[Any]:
    if not isinstance(values, dict) or sorted(values) != [*names]:
        raise ValueError(f"not a Mixture loader's state: {what} are {values!r}")
    return [values[name] for name in names]
