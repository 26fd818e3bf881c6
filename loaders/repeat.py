"""Epoch after epoch without a gap: the next one is read while the last batches of this one wait."""

from collections.abc import Callable, Iterator

import torch

from loaders.iterator import TokenIterator
from loaders.sampler import OrderSampler
from loaders.schedule import Span
from loaders.state import Progress


def endless(
    progress: Progress,
    sampler: OrderSampler,
    make: Callable[[Span], TokenIterator],
    use: Callable[[TokenIterator, object], None],
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches from behind the last one that was delivered, over epochs, without end.

    Reading begins at once, not when the first batch is asked for.

    Args:
        make: starts an iteration that doesn't move the progress yet.
        use: from now on it is the one that does; with the progress's token.
    """
    progress.go_on()
    token = progress.restart()
    return _from(make(sampler.current()), token, progress, sampler, make, use)


def _from(
    current: TokenIterator,
    token: object,
    progress: Progress,
    sampler: OrderSampler,
    make: Callable[[Span], TokenIterator],
    use: Callable[[TokenIterator, object], None],
) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        use(current, token)
        following = None
        for batch in current:
            # Its memory is free as soon as every batch was made, so no more than one's is in use.
            if following is None and current.release():
                following = make(sampler.span(current.span.epoch + 1, 0))
            yield batch
        token = progress.restart()
        span = sampler.current()
        # Someone may have gone elsewhere meanwhile: skip, set_epoch, load_state_dict.
        if following is None or following.span != span:
            following = make(span)
        current = following
