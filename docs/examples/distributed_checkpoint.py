"""torchtitan's way: an adapter with a state, saved by torch.distributed.checkpoint, to disk or S3.

    torchrun --nproc-per-node 2 -m docs.examples.distributed_checkpoint --data s3://tokens/v1 \\
        --output run/ --checkpoints s3://checkpoints/run
    torchrun --nproc-per-node 1 -m docs.examples.distributed_checkpoint --data s3://tokens/v1 \\
        --output run/ --checkpoints s3://checkpoints/run --resume-at 20 --steps 40
"""

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful
from torch.nn.parallel import DistributedDataParallel

from docs.examples.common import TinyForCausalLM, arguments
from loaders import TokenDataLoader, TokenDataset


class TokenBatches(Stateful):
    """What torchtitan calls a BaseDataLoader (derive from that one there)."""

    def __init__(self, loader: TokenDataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """({"input": int64 [rows, seq_len]}, labels of the same shape), without end."""
        for batch in self.loader.repeat():
            yield {"input": batch["input_ids"]}, batch["labels"]

    def state_dict(self) -> dict[str, Any]:
        """One value, the same on every rank: saved once, whatever the number of ranks."""
        return {"loader": json.dumps(self.loader.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on there, on as many ranks as there are now."""
        self.loader.load_state_dict(json.loads(state_dict["loader"]))


def writer(uri: str) -> Any:
    """Where torch.distributed.checkpoint writes to: a folder or s3://."""
    if uri.startswith("s3://"):
        from s3torchconnector.dcp import S3StorageWriter  # of `s3torchconnector[dcp]`

        return S3StorageWriter(os.environ["AWS_REGION"], uri)
    return FileSystemWriter(uri)


def reader(uri: str) -> Any:
    """Where it reads from."""
    if uri.startswith("s3://"):
        from s3torchconnector.dcp import S3StorageReader

        return S3StorageReader(os.environ["AWS_REGION"], uri)
    return FileSystemReader(uri)


def everything(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: TokenBatches
) -> dict[str, Any]:
    """What a checkpoint holds."""
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "dataloader": batches}


def main() -> None:
    """Train up to `--steps`; `--batch-size` is that of all ranks together."""
    parser = arguments(__doc__)
    parser.add_argument("--checkpoints", required=True, metavar="URI", help="a folder or s3://")
    parser.add_argument("--resume-at", type=int, default=0, metavar="STEP", help="of a checkpoint")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    dataset = TokenDataset(options.data, options.seq_len)
    loader = TokenDataLoader(dataset, options.batch_size // dist.get_world_size(), shuffle=True)
    batches = TokenBatches(loader)
    model = DistributedDataParallel(TinyForCausalLM(options.data, options.output))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    step = options.resume_at
    if step:
        saved = everything(model, optimizer, batches)
        load(saved, storage_reader=reader(f"{options.checkpoints}/step-{step}"))
        set_state_dict(
            model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
        )

    for inputs, labels in islice(batches, options.steps - step):
        model(input_ids=inputs["input"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % options.save_every == 0:
            save(
                everything(model, optimizer, batches),
                storage_writer=writer(f"{options.checkpoints}/step-{step}"),
            )
    del model  # before its group: ended by DDP, gloo's threads can wait for the GIL for ever
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
