"""What the figures of a run hold for, as words: the accelerator, the data, the loop, the price."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.starvation.accelerator import Accelerator, EmulatedAccelerator
from benchmarks.starvation.options import Options
from benchmarks.starvation.prices import Price, price_of
from benchmarks.starvation.profiles import PROFILES, Profile
from benchmarks.starvation.world import World
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
    """Facts about the token dataset, for the page."""
    stream = dataset.stream(options.split)
    return {
        "dataset": options.data,
        "split": options.split,
        "documents": f"{stream.documents:,}",
        "tokens": f"{stream.tokens:,}",
        "tokenizer": dataset.manifest.tokenizer.name,
        "text": " ".join(options.text) or "-",
    }


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
