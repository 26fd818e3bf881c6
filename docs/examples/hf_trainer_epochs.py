"""HF Trainer by epochs: one method more than usual, and Trainer's own way to resume.

    python -m docs.examples.hf_trainer_epochs --data s3://tokens/v1 --output run/ --steps 400

Trainer resumes by taking the loader apart and skipping the batches that were trained. It yields the
same samples, but until the epoch ends they are read one batch at a time, and the number of ranks
and the batch size have to stay. For long epochs see hf_trainer.py.
"""

from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from docs.examples.common import TinyForCausalLM, arguments
from loaders import DataLoader, TokenDataset


class TokenTrainer(Trainer):
    """A Trainer that takes its batches from a `loaders.DataLoader`."""

    def get_train_dataloader(self) -> Any:
        """Trainer's own would be rebuilt by accelerate; this one is left as it is."""
        size = self.args.per_device_train_batch_size
        return DataLoader(self.train_dataset, size, shuffle=True, seed=self.args.seed)


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    parser = arguments(__doc__)
    parser.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="a step")
    options = parser.parse_args()
    training = TrainingArguments(
        str(options.output),
        max_steps=options.steps,
        save_steps=options.save_every,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
    )
    trainer = TokenTrainer(
        TinyForCausalLM(options.data, options.output),
        training,
        train_dataset=TokenDataset(options.data, options.seq_len),
    )
    last = get_last_checkpoint(str(options.output)) if options.output.exists() else None
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main()
