"""Several token datasets as one, in exact proportions."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, SupportsIndex, get_args, overload

import numpy as np
from torch.utils.data import Dataset

from loaders.dataset import Sample, TokenDataset
from loaders.form import Form
from loaders.mixture_shares import Shares, exact
from loaders.sampler import PaddingIndex

_OPENED_TOGETHER = 8  # sources; opening waits for the store nearly all the time

Unit = Literal["tokens", "documents"]
Weight = float | int | str | Fraction


@dataclass(frozen=True)
class Part:
    """A source of a mixture; `first` is the mixture's number of its first sample."""

    name: str
    dataset: TokenDataset
    first: int


class Mixture(Dataset[Sample]):
    """Token datasets to be mixed: `Mixture({"web": (uri, 0.7), "code": (uri, 0.3)}, 4096)`.

    `loaders.DataLoader` mixes them (`loaders.mixture_loader.MixtureLoader`). As a map-style dataset
    it is the samples of all sources, one source after the other, in the order of their names.

    Args:
        sources: by name, a uri and a weight, or a `TokenDataset` and a weight. Weights are taken
            as they are written (0.7 is 7/10) and divided by their sum; 0 leaves a source out for
            now. A name is part of the order: choose it once.
        seq_len: tokens in a sample, where uris are given.
        unit: what weights are shares of. `"tokens"`: of the tokens. `"documents"`: of the
            documents, each counted with the mean length of those of its source. With packing, a
            row counts with the mean number of tokens in those of its source.
        samples: rows in an epoch of the mixture; None: as many as its sources have together. It is
            no more than a length for `for` loops and `len(loader)`: the sources' own epochs don't
            depend on it.
        options: of `TokenDataset`, for all sources that are given by their uri.

    Raises:
        ValueError: no sources, a weight that is none, or sources that don't go together: of
            different seq_len or options, or made with different tokenizers.
        shards.errors.DatasetError: as `TokenDataset`.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[str | TokenDataset, Weight]],
        seq_len: int | None = None,
        *,
        unit: Unit = "tokens",
        samples: int | None = None,
        **options: Any,
    ) -> None:
        if not sources:
            raise ValueError('a Mixture needs sources: {"web": (uri, 0.7), "code": (uri, 0.3)}')
        if unit not in get_args(Unit):
            raise ValueError(f"unit={unit!r}: choose one of {', '.join(get_args(Unit))}")
        self.unit = unit
        names = sorted(sources)
        places = [_pair(name, sources[name])[0] for name in names]
        parts: list[Part] = []
        first = 0
        for name, dataset in zip(names, _opened(places, seq_len, options), strict=True):
            parts.append(Part(name, dataset, first))
            first += dataset.samples
        self.parts = tuple(parts)
        self._all_samples = first
        self.samples = first if samples is None else samples
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        _check_together(self.parts, seq_len)
        self.shares = self.shares_of({name: pair[1] for name, pair in sources.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, sorted: the order of all lists of one element a source."""
        return tuple(part.name for part in self.parts)

    @property
    def seq_len(self) -> int:
        """Tokens in a sample."""
        return self.parts[0].dataset.seq_len

    @property
    def form(self) -> Form:
        """Which keys and labels its rows have."""
        return self.parts[0].dataset.form

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """As `TokenDataset.collate`."""
        return self.parts[0].dataset.collate(samples)

    def shares_of(self, weights: Mapping[str, Weight]) -> Shares:
        """What these weights, in the mixture's unit, are as shares of its rows.

        Raises:
            ValueError: other names than the sources', or weights that are none.
        """
        if sorted(weights) != [*self.names]:
            raise ValueError(
                f"weights are for {', '.join(sorted(weights)) or 'nothing'}, the mixture's sources "
                f"are {', '.join(self.names)}: give one for each (0 leaves a source out)"
            )
        numbers = exact([weights[name] for name in self.names])
        if self.unit == "documents":
            streams = [part.dataset.stream for part in self.parts]
            numbers = tuple(
                number * Fraction(stream.tokens, stream.documents)
                for number, stream in zip(numbers, streams, strict=True)
            )
        if self.form.packed:  # rows hold padding, of some sources more than of others
            datasets = [part.dataset for part in self.parts]
            numbers = tuple(
                number * Fraction(dataset.samples, dataset.stream.tokens)
                for number, dataset in zip(numbers, datasets, strict=True)
            )
        return Shares(numbers)

    def __repr__(self) -> str:
        """One line, from what is known: nothing is read. Weights are shares of the rows."""
        sources = ", ".join(
            f"{part.name!r}: ({part.dataset.uri!r}, {float(weight):.4g})"
            for part, weight in zip(self.parts, self.shares.weights, strict=True)
        )
        chosen = {"seq_len": self.seq_len, "unit": self.unit, **self.form.chosen}
        options = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        tokens = sum(part.dataset.stream.tokens for part in self.parts)
        return (
            f"Mixture({{{sources}}}, {options}): {self.samples:,} samples an epoch, "
            f"{tokens:,} tokens"
        )

    def __len__(self) -> int:
        """Samples of all sources."""
        return self._all_samples

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        """A sample, as its source gives it; a list of them for a slice."""
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Sample]:
        """Several samples; those of a source are read side by side."""
        where = [self._where(index) for index in indices]
        found: dict[int, Sample] = {}
        for number, part in enumerate(self.parts):
            places = [place for place, (source, _) in enumerate(where) if source == number]
            if places:
                samples = part.dataset.__getitems__([where[place][1] for place in places])
                found.update(zip(places, samples, strict=True))
        return [found[place] for place in range(len(where))]

    def _where(self, index: SupportsIndex) -> tuple[int, SupportsIndex]:
        """The number of the source, and the index in it."""
        if isinstance(index, PaddingIndex):
            return 0, index
        number = index.__index__()
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        number %= len(self)
        firsts = [part.first for part in self.parts]
        source = int(np.searchsorted(firsts, number, side="right")) - 1
        return source, number - firsts[source]


def _pair(name: str, pair: Any) -> tuple[str | TokenDataset, Weight]:
    if not isinstance(name, str) or not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"source {name!r} must be (uri or TokenDataset, weight), not {pair!r}")
    return pair[0], pair[1]


def _opened(
    places: Sequence[str | TokenDataset], seq_len: int | None, options: Mapping[str, Any]
) -> list[TokenDataset]:
    """Opened side by side, given in this order. The first error that comes is raised at once, and
    no more are begun.
    """
    threads = ThreadPoolExecutor(_OPENED_TOGETHER, "stoker-open")
    try:
        opening = [threads.submit(_open, place, seq_len, options) for place in places]
        for one in as_completed(opening):
            one.result()
        return [one.result() for one in opening]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _open(
    place: str | TokenDataset, seq_len: int | None, options: Mapping[str, Any]
) -> TokenDataset:
    if isinstance(place, TokenDataset):
        return place
    if seq_len is None:
        raise ValueError(f"{place}: a Mixture of uris needs seq_len=")
    return TokenDataset(place, seq_len, **options)


def _check_together(parts: Sequence[Part], seq_len: int | None) -> None:
    first = parts[0]
    length = first.dataset.seq_len if seq_len is None else seq_len
    if first.dataset.form.packing == "none":
        raise ValueError(
            "packing='none' does not go with a Mixture: its rows differ in length, so shares of "
            "rows would not be shares of tokens. Use packing='best_fit'"
        )
    for part in parts:
        if part.dataset.seq_len != length:
            raise ValueError(
                f"source {part.name!r} has seq_len={part.dataset.seq_len}, the mixture "
                f"{length}: rows of a batch are equally long"
            )
        if part.dataset.form != first.dataset.form:
            raise ValueError(
                f"the samples of sources {first.name!r} and {part.name!r} differ: "
                f"{first.dataset.form.differs(part.dataset.form)}. Make their TokenDatasets with "
                "the same options"
            )
        mine, others = (one.dataset.stream.dataset.manifest.tokenizer for one in (first, part))
        if mine.fingerprint != others.fingerprint:
            raise ValueError(
                f"source {first.name!r} was made with tokenizer {mine.name!r} "
                f"({mine.fingerprint[:12]}), {part.name!r} with {others.name!r} "
                f"({others.fingerprint[:12]}): the same number would mean another token. Tokenize "
                "one of them again with the other's tokenizer"
            )
