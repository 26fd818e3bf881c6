"""What a run of the starvation benchmark is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.starvation.cards.accelerator import Node
from benchmarks.starvation.cards.model import SIZES
from benchmarks.starvation.cards.profiles import DEFAULT_PROFILE, PROFILES
from shards.errors import StokerError

# Other libraries that this benchmark feeds its loop with; `make peers` installs the first two.
PEERS = ("litdata", "mosaicml", "torch")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked to do; the fields are the command's options of the same name.

    `text`: what `data` was made of, as `pipelines.tokenize --input` takes it; () leaves the inline
    contender out. `seq_len`, `batch_size` and `time_scale`: None takes the profile's. `warmup`:
    None finds it. `latency`: milliseconds that an S3 server on this machine holds requests back;
    Stoker reads `data`, a folder, from it too, once for each. `padded`: folder of a HF tokenizer;
    adds the deck's collate of `text`. `peers`: other libraries, in their own environments.
    `sweep_workers`: numbers of workers to try those with that have some. `loader`: a person's own,
    `module:function`. `ladder`: climb it with Stoker. `ranks`: processes that train together, None:
    as many as were started. `self_test`: the report checks itself. `metrics_port`: serve metrics of
    the run there. `host_busy_ms`, `h2d_gb_s` and `pageable` are `accelerator.Node`'s.
    """

    data: str
    output: Path
    text: tuple[str, ...] = ()
    text_column: str = "text"
    text_split: str = "file"
    split: str = "train"
    profile: str = DEFAULT_PROFILE
    model: str | None = None
    gradient_checkpointing: bool = False
    cards: int = 1
    time_scale: float | None = None
    host_busy_ms: float = 0.0
    h2d_gb_s: float | None = None
    pageable: bool = False
    seq_len: int | None = None
    batch_size: int | None = None
    ranks: int | None = None
    steps: int = 200
    seeds: int = 3
    warmup: int | None = None
    seconds: float = 60.0
    workers: int = 0
    latency: tuple[float, ...] = ()
    padded: str | None = None
    loader: str | None = None
    peers: tuple[str, ...] = ()
    sweep_workers: tuple[int, ...] = ()
    ladder: bool = False
    self_test: bool = False
    price: float | None = None
    compare: Path | None = None
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise StokerError(f"no profile {self.profile!r}: choose one of {', '.join(PROFILES)}")
        if self.model is not None and self.model not in SIZES:
            raise StokerError(f"no model {self.model!r}: choose one of {', '.join(SIZES)}")
        for name in ("seq_len", "batch_size", "cards", "ranks", "steps", "seeds", "warmup"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StokerError(f"{name} is {value}: it must be at least 1")
        for name in ("time_scale", "seconds", "price", "h2d_gb_s"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise StokerError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name, values in (
            ("host_busy_ms", (self.host_busy_ms,)),
            ("latency", self.latency),
            ("sweep_workers", self.sweep_workers),
        ):
            if any(not value >= 0 for value in values):
                raise StokerError(f"{name} is {min(values)}: it can't be negative")
        if self.metrics_port is not None and not 0 < self.metrics_port < 2**16:
            raise StokerError(f"metrics_port is {self.metrics_port}: it must be from 1 to 65535")
        if self.ladder and (self.ranks or 1) > 1:
            raise StokerError("--ladder is climbed by one rank: leave out --ranks")
        if self.workers < 0:
            raise StokerError(f"workers is {self.workers}: it can't be negative (0: one a core)")
        if unknown := set(self.peers) - set(PEERS):
            raise StokerError(f"no peer {min(unknown)!r}: choose of {', '.join(PEERS)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(batch_size, seq_len) of a batch, which the cards share."""
        profile = PROFILES[self.profile]
        rows, length = self.cards * profile.batch_size, profile.seq_len
        if self.model is not None:
            rows, length = SIZES[self.model].batch
        return self.batch_size or rows, self.seq_len or length

    @property
    def inline_workers(self) -> int:
        """Worker processes of the inline contender: as many as there are cores, unless chosen."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def scale(self) -> float:
        """What emulated steps are shortened by: as chosen, else so that a run takes minutes."""
        return PROFILES[self.profile].time_scale if self.time_scale is None else self.time_scale

    @property
    def node(self) -> Node:
        """The machine around the emulated card."""
        rate = None if self.h2d_gb_s is None else self.h2d_gb_s * 1e9
        return Node(host_busy_ms=self.host_busy_ms, pageable=self.pageable, h2d_bytes_per_s=rate)

    @property
    def emulates(self) -> tuple[str, ...]:
        """The options given that only an emulated card has."""
        return tuple(
            word
            for word, given in (
                (f"--cards {self.cards}", self.cards != 1),
                (f"--time-scale {self.time_scale}", self.time_scale not in (None, 1)),
                (f"--host-busy-ms {self.host_busy_ms:g}", self.host_busy_ms),
                (f"--h2d-gb-s {self.h2d_gb_s}", self.h2d_gb_s is not None),
                ("--pageable", self.pageable),
            )
            if given
        )
