"""HF Trainer by steps: the loader's place is in each checkpoint; ranks, batch size may change.

python -m docs.examples.hf_trainer --data s3://tokens/v1 --output run/
accelerate launch -m docs.examples.hf_trainer --data ... --deepspeed docs/examples/deepspeed.json
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from docs.examples.common import TinyForCausalLM, arguments
from loaders import TokenDataLoader, TokenDataset


class Steps:
    """A loader without epochs: Trainer neither counts them nor skips batches when it resumes."""

    def __init__(self, loader: TokenDataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        """From behind the last batch that was delivered, over epochs, without end."""
        return self.loader.repeat()


class KeepLoader(TrainerCallback, ExportableState):
    """Keeps the loader's state in the `trainer_state.json` of each checkpoint, and restores it."""

    def __init__(self, loader: TokenDataLoader) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """Asked for by Trainer when it saves."""
        return {"args": {}, "attributes": {"loader": self.loader.state_dict()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first batch, with the `trainer_state.json` of the checkpoint, if any."""
        if state.global_step:
            if not args.ignore_data_skip:
                raise ValueError("ignore_data_skip=True, or Trainer skips batches a second time")
            saved = state.stateful_callbacks[type(self).__name__]
            self.loader.load_state_dict(saved["attributes"]["loader"])


class TokenTrainer(Trainer):
    """A Trainer that takes its batches from loaders as they are."""

    def __init__(self, *args: Any, loader: TokenDataLoader, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loader = loader
        self.add_callback(KeepLoader(loader))

    def get_train_dataloader(self) -> Any:
        """Instead of one made from `train_dataset`."""
        return Steps(self.loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """One of its own for each evaluation: it shares nothing with the training loader."""
        return TokenDataLoader(
            eval_dataset or self.eval_dataset, self.args.per_device_eval_batch_size
        )


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    parser = arguments(__doc__)
    parser.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="a step")
    parser.add_argument("--deepspeed", metavar="FILE", help="a DeepSpeed configuration")
    parser.add_argument("--evaluate", metavar="SPLIT", help="evaluate on it each 2 steps")
    options = parser.parse_args()
    training = TrainingArguments(
        str(options.output),
        max_steps=options.steps,
        save_steps=options.save_every,
        per_device_train_batch_size=options.batch_size,  # DeepSpeed's where that is "auto"
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        ignore_data_skip=True,  # KeepLoader restores the place
        lr_scheduler_type="constant",
        logging_steps=1,
        eval_strategy="steps" if options.evaluate else "no",
        eval_steps=2,
        deepspeed=options.deepspeed,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
    )

    size = training.per_device_train_batch_size
    loader = TokenDataLoader(
        TokenDataset(options.data, options.seq_len), size, shuffle=True, pin_memory=True
    )
    held_out = None
    if options.evaluate:
        held_out = TokenDataset(options.data, options.seq_len, split=options.evaluate)
    trainer = TokenTrainer(
        TinyForCausalLM(options.data, options.output),
        training,
        loader=loader,
        eval_dataset=held_out,
    )
    last = get_last_checkpoint(str(options.output)) if options.output.exists() else None
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main()
