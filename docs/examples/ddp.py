"""torchrun and DDP: the same global batches, also when a run goes on with other numbers of ranks.

torchrun --nproc-per-node 2 -m docs.examples.ddp --data s3://tokens/v1 --output run/
torchrun --nproc-per-node 1 -m docs.examples.ddp --data s3://tokens/v1 --output run/ --steps 40
"""

import os
from itertools import islice

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from docs.examples.common import TinyForCausalLM, arguments
from loaders import TokenDataLoader, TokenDataset


def main() -> None:
    """Train up to `--steps`; `--batch-size` is that of all ranks together."""
    options = arguments(__doc__).parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)

    # The loader asks torch.distributed which rank it is. One batch of all ranks together is the
    # same for any number of them that divides `lanes`.
    dataset = TokenDataset(options.data, options.seq_len)
    loader = TokenDataLoader(
        dataset, options.batch_size // dist.get_world_size(), shuffle=True, pin_memory=True
    )
    model = DistributedDataParallel(TinyForCausalLM(options.data, options.output).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = options.output / "checkpoint.pt"

    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])  # the same one for every rank
        step = saved["step"]
    dist.barrier()

    for batch in islice(loader.repeat(), options.steps - step):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % options.save_every == 0 and dist.get_rank() == 0:
            state = {
                "model": model.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)
    dist.barrier()
    del model  # before its group: ended by DDP, gloo's threads can wait for the GIL for ever
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
