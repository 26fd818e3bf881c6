"""What the figures of a run hold for, as words: the accelerator, the data, the loop, the price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import torch

from benchmarks.starvation.cards.accelerator import Accelerator, EmulatedAccelerator
from benchmarks.starvation.cards.profiles import PROFILES, Profile
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from benchmarks.starvation.page_cache import cached_share
from benchmarks.starvation.reports.prices import Price, price_of
from shards.dataset import Dataset


def describe_device(accelerator: Accelerator, profile: Profile, options: Options) -> dict[str, str]:
    """Facts about the accelerator, for the page."""
    if not isinstance(accelerator, EmulatedAccelerator):
        step = "forward, backward, AdamW; a Llama with random weights"
        cuda = {"CUDA": str(torch.version.cuda)} if torch.cuda.is_available() else {}
        return {"device": accelerator.title, "step": step} | cuda
    batch_size, seq_len = options.shape
    fixed = profile.fixed_ns * options.scale / 1e6
    return {
        "profile": profile.name,
        "source": profile.source,
        "cards": str(options.cards),
        "time scale": f"{options.scale:g} (1: as published)",
        "step": f"{accelerator.step_ns(batch_size * seq_len) / 1e6:.1f} ms",
        "of it fixed": f"{fixed:.2f} ms (optimizer, derived)",
        "host to device": f"{_link(options) / options.scale / 1e9:g} GB/s a card",
    }


def _link(options: Options) -> float:
    return options.node.h2d_bytes_per_s or PROFILES[options.profile].h2d_bytes_per_s


def describe_data(dataset: Dataset, options: Options) -> dict[str, str]:
    """Facts about the token dataset, for the page; to be asked before it is read from."""
    stream = dataset.stream(options.split)
    size = stream.tokens * stream.dtype.itemsize
    return {
        "dataset": options.data,
        "split": options.split,
        "documents": f"{stream.documents:,}",
        "tokens": f"{stream.tokens:,}",
        # MLPerf Storage asks for 5 times the memory, so that reading is what is measured.
        "size": f"{size / 1e9:.3g} GB, {size / psutil.virtual_memory().total:.2g} of the memory",
        "in memory before": _cached(options.data),
        "tokenizer": dataset.manifest.tokenizer.name,
        "text": " ".join(options.text) or "-",
    }


def _cached(uri: str) -> str:
    path = uri.removeprefix("file://")
    share = None if "://" in path else cached_share(Path(path))
    return "not known" if share is None else f"{share:.0%}"


def describe_setup(options: Options, world: World) -> dict[str, str]:
    """Facts about the loop, for the page."""
    batch_size, seq_len = options.shape
    return {
        "batch": f"{batch_size} x {seq_len} tokens",
        "steps": f"{options.steps} after {options.warmup or 'as many as it takes'} of warm-up",
        "seeds": str(options.seeds),
        "at most": f"{options.seconds:g} s a contender",
        "inline workers": str(options.inline_workers),
        **({"ranks": f"{world.size} processes, by {world.backend}"} if world.size > 1 else {}),
    }


def find_price(options: Options, *, emulated: bool) -> Price | None:
    """What the node costs: as chosen, else that of the profile's, else nobody knows."""
    known = price_of(options.profile) if emulated else None
    if options.price is None:
        return known
    node = known or Price("this node", options.price, options.cards)
    return replace(node, usd_per_hour=options.price, source="--price", date="given")
