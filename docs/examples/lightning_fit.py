"""Lightning: the loader's place is in each of its checkpoints, also in the middle of an epoch.

    python -m docs.examples.lightning_fit --data s3://tokens/v1 --output run/
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from docs.examples.common import TinyLlama, arguments
from loaders import DataLoader, TokenDataset


class Language(LightningModule):
    """A language model, trained on the batches as they come."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch."""
        loss: torch.Tensor = self.model(**batch).loss
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with the same rate throughout."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    parser = arguments(__doc__)
    parser.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="a step")
    options = parser.parse_args()
    # Under torchrun or srun the loader knows its rank by their environment, before Lightning does.
    dataset = TokenDataset(options.data, options.seq_len)
    loader = DataLoader(dataset, options.batch_size, shuffle=True, pin_memory=True)
    checkpoints = ModelCheckpoint(
        options.output, every_n_train_steps=options.save_every, save_last=True
    )
    trainer = Trainer(
        max_steps=options.steps,
        accumulate_grad_batches=options.accumulate,
        callbacks=[checkpoints],
        default_root_dir=options.output,
        logger=False,
        enable_progress_bar=False,
    )
    last = options.output / "last.ckpt"
    trainer.fit(
        Language(TinyLlama(options.data, options.output)),
        loader,
        ckpt_path=str(last) if last.exists() else None,
    )


if __name__ == "__main__":
    main()
