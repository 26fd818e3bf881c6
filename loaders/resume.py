"""A loader's place, saved and found again: what may have changed in between, and what may not."""

from typing import Any

from loaders.dataset import TokenDataset
from loaders.parts import Deal
from loaders.sampler import OrderSampler
from loaders.state import Identity, Place, check, load, save


def saved(dataset: TokenDataset, sampler: OrderSampler) -> dict[str, Any]:
    """The state of the loader that has this sampler."""
    return save(identity(dataset, sampler.deal), sampler.place())


def resumed(
    state: dict[str, Any], dataset: TokenDataset, deal: Deal, *, adopt: bool
) -> tuple[Deal, Place]:
    """How to deal from now on, and the place of a saved state in rows of this dataset.

    Args:
        deal: that of the loader.
        adopt: whether the state's `max_seq_len` may take the place of the loader's.

    Raises:
        ValueError: a state of something else; both values are named.
    """
    of, place = load(state)
    if adopt and of["max_seq_len"] % deal.seq_len == 0 and of["packing"] == "concat":
        check(of, identity(dataset, deal, of["max_seq_len"]))
        order = deal.order
        deal = dataset.deal(order.lanes, order.seed, order.shuffle, of["max_seq_len"])
    check(of, identity(dataset, deal))
    position, begun = deal.place_after(place.position, place.begun, place.seq_len)
    return deal, Place(place.epoch, position, deal.seq_len, place.global_batch, begun)


def identity(dataset: TokenDataset, deal: Deal, max_seq_len: int | None = None) -> Identity:
    """What a state of this loader is a state of."""
    return Identity(
        dataset=dataset.stream.dataset.id,
        split=dataset.split,
        source=dataset.source_name,
        max_seq_len=max_seq_len or deal.max_seq_len,
        seed=deal.order.seed,
        shuffle=deal.order.shuffle,
        lanes=deal.order.lanes,
        packing=dataset.packing,
    )
