"""A loop of one's own with accelerate: `save_state` and `load_state` keep the loader's place too.

accelerate launch -m docs.examples.accelerate_loop --data s3://tokens/v1 --output run/
"""

import torch
from accelerate import Accelerator, DeepSpeedPlugin

from docs.examples.common import TinyForCausalLM, arguments
from loaders import TokenDataLoader, TokenDataset


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    parser = arguments(__doc__)
    parser.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="a step")
    parser.add_argument("--deepspeed", metavar="FILE", help="a DeepSpeed configuration")
    options = parser.parse_args()
    plugin = DeepSpeedPlugin(hf_ds_config=options.deepspeed) if options.deepspeed else None
    accelerator = Accelerator(
        gradient_accumulation_steps=options.accumulate, deepspeed_plugin=plugin
    )

    dataset = TokenDataset(options.data, options.seq_len)
    loader = TokenDataLoader(dataset, options.batch_size, shuffle=True, pin_memory=True)
    model = TinyForCausalLM(options.data, options.output)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # The loader comes back as it is, and gives DeepSpeed its batch size where that is "auto".
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    step = 0
    checkpoint = options.output / "checkpoint"
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        step = int((checkpoint / "step").read_text())

    batches = loader.repeat()
    while step < options.steps:
        for _ in range(options.accumulate):
            # Batches are moved by the loop: the loader is torch's, not one of accelerate's.
            batch = {name: tensor.to(accelerator.device) for name, tensor in next(batches).items()}
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
        step += 1
        if step % options.save_every == 0:
            accelerator.save_state(str(checkpoint))
            if accelerator.is_main_process:
                (checkpoint / "step").write_text(str(step))
            accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
