"""Who takes part in a run, and who is left out and why."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.starvation.checks.ladder import Card
from benchmarks.starvation.contenders import (
    Contender,
    InlineTokenization,
    OwnLoader,
    PaddedRows,
    ResidentBatch,
    Stoker,
    find_units,
)
from benchmarks.starvation.contenders.peer import Peer
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from pipelines.options import ReadOptions
from shards.dataset import Dataset

INLINE, PADDED = "inline tokenization", "the deck's collate"
REMOTE = "://"


def make_contenders(
    options: Options, dataset: Dataset, pin: bool, world: World
) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of a run in the order of the report, and those left out, with the reason.

    Each gives the share of this rank of `world`; Stoker's loader asks `torch.distributed` itself.
    """
    left_out: dict[str, str] = {}
    stoker = make_stoker(options, pin=pin)
    contenders: list[Contender] = [ResidentBatch(resident_batch(stoker, pin=pin)), stoker]
    for latency_ms in options.latency:
        each = make_stoker(options, pin=pin, latency_ms=latency_ms)
        if REMOTE in options.data:
            left_out[each.title] = "--latency needs --data on a local disk"
        else:
            contenders.append(each)
    reading = ReadOptions(options.text_column, options.text_split)
    inline = make_inline(options, dataset, reading, pin, world)
    if isinstance(inline, str):
        left_out[INLINE] = inline
    else:
        contenders.append(inline)
    if options.padded and options.text:
        units = find_units(options.text, 1, reading)
        batch_size, seq_len = options.shape
        padded = PaddedRows(
            units, options.padded, batch_size, seq_len, reading=reading, pin_memory=pin
        )
        padded.rows = list(world.share(padded.rows))
        contenders.append(padded)
    elif options.padded:
        left_out[PADDED] = "it needs the text the data was made of: --text"
    if options.loader:
        contenders.append(OwnLoader(options.loader))
    return contenders, left_out


def make_peers(
    options: Options, card: Card, world: World, *, emulated: bool
) -> tuple[list[Peer], dict[str, str]]:
    """Other libraries that take part, and those left out, with the reason."""
    batch_size, seq_len = options.shape
    wanted = [
        Peer(name, options.data, options.split, seq_len, batch_size, card, options.node)
        for name in options.peers
    ]
    left_out: dict[str, str] = {}
    for each in wanted:
        if REMOTE in options.data:
            left_out[each.title] = "--peers needs --data on a local disk"
        elif world.size > 1:
            left_out[each.title] = "peers run as one rank: leave out --ranks"
        elif not emulated:
            left_out[each.title] = (
                "peers run on the emulated card alone: CUDA_VISIBLE_DEVICES= hides a GPU"
            )
        elif each.absent:
            left_out[each.title] = each.absent
    return [each for each in wanted if each.title not in left_out], left_out


def make_stoker(options: Options, *, pin: bool, latency_ms: float | None = None) -> Stoker:
    """Stoker over the data of a run."""
    batch_size, seq_len = options.shape
    return Stoker(
        options.data, seq_len, batch_size, options.split, pin_memory=pin, latency_ms=latency_ms
    )


def resident_batch(stoker: Stoker, *, pin: bool) -> Mapping[str, torch.Tensor]:
    """A copy of Stoker's first batch."""
    first = next(iter(stoker.open()))
    batch = {key: tensor.clone() for key, tensor in first.items()}
    return {key: tensor.pin_memory() for key, tensor in batch.items()} if pin else batch


def make_inline(
    options: Options, dataset: Dataset, reading: ReadOptions, pin: bool, world: World
) -> InlineTokenization | str:
    """The contender, or why there is none."""
    if not options.text:
        return "it needs the text the data was made of: --text"
    made_with = dataset.manifest.tokenizer
    if made_with.end_token is None or made_with.begin_token is not None:
        return "it writes end tokens alone, the data was made otherwise"
    batch_size, seq_len = options.shape
    return InlineTokenization(
        world.share(
            find_units(
                options.text,
                max((options.inline_workers, *options.sweep_workers)) * world.size,
                reading,
            )
        ),
        dataset.store.read(made_with.file).decode(),
        made_with.end_token.id,
        seq_len,
        batch_size,
        options.inline_workers,
        reading,
        made_with.special_tokens,
        pin,
    )
