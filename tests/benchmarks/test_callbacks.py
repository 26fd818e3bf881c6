"""In loops that frameworks own, the callbacks see each step and what lies between them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.starvation import StarvationMonitor
from benchmarks.starvation.callbacks import lightning_callback, trainer_callback

WAIT_S, STEPS = 0.02, 12


class Slow(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows that take their time."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        time.sleep(WAIT_S)
        return {"x": torch.ones(4), "labels": torch.ones(1)}


def starved(monitor: StarvationMonitor[Any]) -> Any:
    result = monitor.report().results[0]
    assert sum(result.causes.values()) == result.window_ns
    assert len(monitor.recording().host) == STEPS
    # Each row takes its time in every window, whatever else the framework does; but for the last,
    # which accelerate had read a step ahead.
    assert result.causes["input"] >= 0.9 * (result.runs[0].steps - 1) * WAIT_S * 1e9
    assert result.main_cause == "input"
    return result


@pytest.mark.slow
def test_hf_trainer_is_watched_by_a_callback(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x) - labels).square().mean()}

    monitor: StarvationMonitor[Any] = StarvationMonitor([], device="cpu")
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        save_steps=3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callbacks = [trainer_callback(monitor)]
    Trainer(Model(), arguments, train_dataset=Slow(), callbacks=callbacks).train()
    result = starved(monitor)
    assert result.causes["checkpoint"] > 0


@pytest.mark.slow
def test_lightning_is_watched_by_a_callback(tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: dict[str, torch.Tensor], at: int) -> torch.Tensor:
            loss: torch.Tensor = (self.layer(batch["x"]) - batch["labels"]).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor: StarvationMonitor[Any] = StarvationMonitor([], device="cpu")
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback(monitor)],
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(Slow(), batch_size=1))
    starved(monitor)
