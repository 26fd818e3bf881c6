"""Which accelerator a run has: a real one where there is a GPU or a model to train, or emulated."""

from __future__ import annotations

import torch

from benchmarks.starvation.cards.accelerator import Accelerator, EmulatedAccelerator
from benchmarks.starvation.cards.exchange import GlooExchange
from benchmarks.starvation.cards.model import SIZES
from benchmarks.starvation.cards.profiles import PROFILES
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from shards.errors import StokerError

# What a profile's model is called here.
OF_PROFILE = {"124m": "125m", "1b": "1b"}
ON_A_CPU = "tiny"


def pick_accelerator(options: Options, vocabulary: int, world: World | None = None) -> Accelerator:
    """The GPU where torch sees one, the CPU where `--model tiny` asks for it, else emulated.

    `vocabulary`: token ids of the data. A GPU trains `--model`, else the profile's.

    Raises:
        StokerError: an option of the emulated accelerator beside a real one; a model that can't be
            trained here; gradient checkpointing of no model.
    """
    world = world or World()
    real = real_model(options)
    if real is None:
        if options.gradient_checkpointing:
            raise StokerError("--gradient-checkpointing needs a real step: choose a --model")
        return EmulatedAccelerator(
            PROFILES[options.profile],
            options.cards,
            options.scale,
            node=options.node,
            exchange=GlooExchange() if world.size > 1 else None,
        )
    if options.emulates:
        raise StokerError(
            f"{', '.join(options.emulates)}: only the emulated accelerator has these, and"
            f" {'torch sees a GPU here (CUDA_VISIBLE_DEVICES= hides it)' if cuda() else '--model'}"
            " asks for real steps"
        )
    if not cuda():
        from benchmarks.starvation.cards.cpu import CpuAccelerator

        return CpuAccelerator(real, vocabulary, world, checkpointing=options.gradient_checkpointing)
    from benchmarks.starvation.cards.gpu import CudaAccelerator

    return CudaAccelerator(real, vocabulary, world, checkpointing=options.gradient_checkpointing)


def real_model(options: Options) -> str | None:
    """The model whose real steps are run, or None where they are emulated.

    Raises:
        StokerError: one that needs a GPU, and there is none; a profile without such a model.
    """
    if options.model is not None:
        if not cuda() and options.model != ON_A_CPU:
            raise StokerError(
                f"--model {options.model} needs a GPU, and torch sees none: {ON_A_CPU} trains on"
                " the CPU, and --profile emulates a card"
            )
        return options.model
    if not cuda():
        return None
    model = PROFILES[options.profile].model
    if model not in OF_PROFILE:
        raise StokerError(
            f"profile {options.profile}: no model {model!r} to train on a real GPU: choose a"
            f" --model of {', '.join(SIZES)}, or CUDA_VISIBLE_DEVICES= to emulate"
        )
    return OF_PROFILE[model]


def cuda() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()
