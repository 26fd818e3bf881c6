"""A plain torch loop that goes on where it was stopped: model, optimizer and loader in one file.

python -m docs.examples.plain_loop --data s3://tokens/v1 --output run/
"""

import os
from itertools import islice

import torch

from docs.examples.common import TinyForCausalLM, arguments
from loaders import TokenDataLoader, TokenDataset


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    options = arguments(__doc__).parse_args()
    dataset = TokenDataset(options.data, options.seq_len)
    loader = TokenDataLoader(dataset, options.batch_size, shuffle=True, pin_memory=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TinyForCausalLM(options.data, options.output).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = options.output / "checkpoint.pt"

    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]

    for batch in islice(loader.repeat(), options.steps - step):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        print(f"step {step}: loss {loss.item():.4f}", flush=True)
        if step % options.save_every == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),  # a few numbers: where `batch` was the last one
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)  # whole, or not at all


if __name__ == "__main__":
    main()
