"""The training step of a real run: a Llama with random weights, AdamW, and its other ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.cards.model import SIZES, Llama
from benchmarks.starvation.loop.world import World


class TrainingStep:
    """Forward, backward and AdamW of `model`, a name of `SIZES`, on `device`.

    bf16 on CUDA; float32 on a CPU, few of which have bf16. Ranks of `world` average their gradients
    by DistributedDataParallel, which overlaps that with the backward pass. `arrived` is called when
    a rank's own backward pass is over and it waits for the rest of that.
    """

    def __init__(
        self,
        model: str,
        vocabulary: int,
        device: torch.device,
        world: World,
        *,
        checkpointing: bool = False,
    ) -> None:
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        with device:
            llama = Llama(SIZES[model], vocabulary, checkpointing=checkpointing).to(self.dtype)
        self.model: nn.Module = llama
        self.arrived: Callable[[], None] = _nothing
        if world.size > 1:
            parallel = DistributedDataParallel(llama)
            # torch compares annotations, which are words here: a lambda has none.
            parallel.register_comm_hook(None, lambda _, bucket: self._exchange(bucket))
            self.model = parallel
        self.optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-5, fused=True)
        kind = str(self.dtype).removeprefix("torch.")
        again = ", gradient checkpointing" if checkpointing else ""
        self.title = f"Llama {model}, {kind}{again}"

    def backward(self, batch: Batch) -> Tensor:
        """Gradients, of all ranks; the loss, float32 [], on the device."""
        loss: Tensor = self.model(batch["input_ids"], batch["labels"])
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """The optimizer's step over them."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _exchange(self, bucket: Any) -> torch.futures.Future[Tensor]:
        # The last gradients to be ready are the embedding's: nothing of its own is left then.
        if bucket.is_last():
            self.arrived()
        averaged: torch.futures.Future[Tensor] = allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]
        return averaged


def _nothing() -> None:
    pass
