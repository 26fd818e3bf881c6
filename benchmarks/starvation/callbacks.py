"""The monitor in loops that frameworks own: as a callback of HF Trainer and of Lightning.

Neither tells when it asks for a batch. Asked is taken to be when it had done with the step before:
its last callback after that. A loader with a `timeline()` says what the batch waited for.
"""

from __future__ import annotations

from typing import Any

from benchmarks.starvation.explain.causes import CHECKPOINT, HOST
from benchmarks.starvation.monitor import StarvationMonitor
from shards.errors import StokerError


class _Steps:
    """What both callbacks do: a step begins, is over, and other work follows it."""

    def __init__(self, monitor: StarvationMonitor[Any]) -> None:
        self.monitor = monitor

    def _begin(self) -> None:
        self.monitor.__enter__()
        self.monitor.ask()

    def _batch(self, batch: object) -> None:
        self.monitor.begin_step(batch)

    def _over(self) -> None:
        self.monitor.end_step()
        self.monitor.ask()

    def _worked(self, cause: str) -> None:
        """All since the step was over, or since the last such work, was `cause`."""
        self.monitor.worked(cause)

    def _end(self) -> None:
        self.monitor.__exit__(None, None, None)


def trainer_callback(monitor: StarvationMonitor[Any]) -> Any:
    """A `transformers.TrainerCallback` that feeds `monitor`, made over the Trainer's loader.

    Saving is `checkpoint`, logging and evaluation are `host`. A batch is what Trainer's
    `per_device_train_batch_size` says; its tokens are not seen.

    Raises:
        StokerError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise StokerError("a Trainer callback needs transformers: pip install it") from error

    class Callback(_Steps, TrainerCallback):
        """See `trainer_callback`."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._begin()

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._batch(None)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._over()

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._worked(HOST)

        def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._worked(HOST)

        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._worked(CHECKPOINT)

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._end()

    return Callback(monitor)


def lightning_callback(monitor: StarvationMonitor[Any]) -> Any:
    """A `lightning.Callback` that feeds `monitor`, made over the fit's loader.

    What other callbacks do behind a batch, saving too, counts as waiting unless the loader's
    timeline tells how long it was waited for.

    Raises:
        StokerError: lightning is not installed.
    """
    try:
        from lightning import Callback as LightningCallback
    except ImportError as error:
        raise StokerError("a Lightning callback needs lightning: pip install it") from error

    class Callback(_Steps, LightningCallback):
        """See `lightning_callback`."""

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self._begin()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, at: int) -> None:
            self._batch(batch)

        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, at: int
        ) -> None:
            self._over()

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self._end()

    return Callback(monitor)
