"""Lightning: the loader's place is in each of its checkpoints, also in the middle of an epoch.

python -m docs.examples.lightning_fit --data s3://tokens/v1 --output run/
"""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from docs.examples.common import TinyForCausalLM, arguments
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


class Tokens(LightningDataModule):
    """Makes the loader when Lightning asks for it: by then it has told torch which rank this is."""

    def __init__(self, uri: str, seq_len: int, batch_size: int) -> None:
        super().__init__()
        self.dataset, self.batch_size = TokenDataset(uri, seq_len), batch_size

    def train_dataloader(self) -> Any:
        """Lightning keeps its state in the checkpoint, and leaves its sampler as it is."""
        return DataLoader(self.dataset, self.batch_size, shuffle=True, pin_memory=True)


def main() -> None:
    """Train up to `--steps`, from the last checkpoint if there is one."""
    parser = arguments(__doc__)
    parser.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="a step")
    parser.add_argument("--devices", default="auto")
    options = parser.parse_args()
    checkpoints = ModelCheckpoint(
        options.output, every_n_train_steps=options.save_every, save_last=True
    )
    trainer = Trainer(
        devices=options.devices,
        max_steps=options.steps,
        accumulate_grad_batches=options.accumulate,
        callbacks=[checkpoints],
        default_root_dir=options.output,
        logger=False,
        enable_progress_bar=False,
    )
    last = options.output / "last.ckpt"
    trainer.fit(
        Language(TinyForCausalLM(options.data, options.output)),
        datamodule=Tokens(options.data, options.seq_len, options.batch_size),
        ckpt_path=str(last) if last.exists() else None,
    )


if __name__ == "__main__":
    main()
