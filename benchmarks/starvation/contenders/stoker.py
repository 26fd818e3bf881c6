"""Stoker's own loader, over local files or S3, which may be made slow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loading.delay import delayed
from benchmarks.s3_server import serve_s3
from benchmarks.starvation.cards.accelerator import Batch
from benchmarks.starvation.loop.epochs import Epochs
from loaders import DataLoader, TokenDataset
from shards.errors import StokerError

BUCKET = "starvation"


@dataclass
class Stoker:
    """Stoker's loader over a token dataset, shuffled, epoch after epoch.

    `options`: more arguments of `loaders.DataLoader`, `form`: of `TokenDataset`. With `latency_ms`
    the dataset, a local folder, is read from an S3 server on this machine that holds each request
    back for so long (0: for no time).
    """

    uri: str
    seq_len: int
    batch_size: int
    split: str = "train"
    pin_memory: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: float | None = None
    form: Mapping[str, Any] = field(default_factory=dict)
    note: str = field(default="token shards, shuffled", init=False)
    bounded: bool = field(default=True, init=False)
    _loader: Any = field(default=None, init=False)
    _begun: list[int] = field(default_factory=list, init=False, repr=False)
    _served: str | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """See `Contender.name`."""
        latency = self.latency_ms
        return "stoker" if latency is None else f"stoker-s3-{latency:g}ms"

    @property
    def title(self) -> str:
        """See `Contender.title`."""
        if self.latency_ms is None:
            return "Stoker"
        return "Stoker, S3" + (f" + {self.latency_ms:g} ms" if self.latency_ms else "")

    def ready(self) -> AbstractContextManager[object]:
        """See `Contender.ready`: the S3 server, where there is a latency."""
        return nullcontext() if self.latency_ms is None else self._serve(self.latency_ms)

    @contextmanager
    def _serve(self, latency_ms: float) -> Iterator[None]:
        with on_s3(Path(self.uri.removeprefix("file://")), latency_ms) as self._served:
            yield
        self._served = None

    def open(self, seed: int = 0) -> Iterator[Batch]:
        """See `Contender.open`."""
        uri = self.uri if self.latency_ms is None else self._served
        if uri is None:
            raise StokerError(f"{self.title}: open it inside its ready(), which starts its server")
        try:
            dataset = TokenDataset(uri, self.seq_len, split=self.split, **self.form)
        except ValueError as error:
            raise StokerError(str(error)) from error
        if len(dataset) < self.batch_size:
            raise StokerError(
                f"{self.uri} holds {len(dataset)} samples of {self.seq_len} tokens, less than one"
                f" batch of {self.batch_size}: choose a smaller --seq-len or --batch-size"
            )
        self._loader = DataLoader(
            dataset,
            self.batch_size,
            shuffle=True,
            seed=seed,
            drop_last=True,
            pin_memory=self.pin_memory,
            **self.options,
        )
        if not len(self._loader):
            raise StokerError(
                f"{self.uri} holds {len(dataset)} samples of {self.seq_len} tokens, which is less"
                f" than a batch of {self.batch_size} for every rank: choose a smaller --seq-len or"
                " --batch-size, or fewer --ranks"
            )
        epochs = Epochs(self._loader, f"{self.uri}: an epoch has no batch")
        self._begun = epochs.begun
        return epochs

    def epochs(self) -> tuple[int, ...]:
        """See `Contender.epochs`."""
        return tuple(self._begun)

    def state(self) -> dict[str, Any]:
        """The loader's own state, behind the last batch that it gave."""
        state: dict[str, Any] = self._loader.state_dict()
        return state

    def resume(self, state: dict[str, Any], seed: int = 0) -> Iterator[Batch]:
        """A new loader that goes on where `state` was taken."""
        batches = self.open(seed)
        self._loader.load_state_dict(state)
        return batches

    @property
    def loader(self) -> DataLoader | None:
        """The one that runs, whose counters may be asked for."""
        found: DataLoader | None = self._loader
        return found

    def timeline(self) -> np.ndarray:
        """See `Contender.timeline`."""
        rows: np.ndarray = self._loader.timeline()
        return rows


@contextmanager
def on_s3(folder: Path, latency_ms: float) -> Iterator[str]:
    """The uri of a copy of `folder` on a real S3 server of this machine, until the block ends.

    Each request is held back for `latency_ms`. The process's AWS_* variables name this server
    meanwhile.

    Raises:
        StokerError: no such folder; no rclone, which is the server.
    """
    if not folder.is_dir():
        raise StokerError(f"{folder}: only a local folder can be put on an S3 of this machine")
    with (
        tempfile.TemporaryDirectory(prefix="stoker-s3-") as work,
        serve_s3(Path(work), etags=False) as server,
        delayed(server.endpoint, latency_ms) as endpoint,
        _environment(server.env | {"AWS_ENDPOINT_URL": endpoint}),
    ):
        uri = f"{server.bucket(BUCKET)}/tokens"
        shutil.copytree(folder, server.path(uri))
        yield uri


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
