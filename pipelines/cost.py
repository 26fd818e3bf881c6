"""What a trillion tokens would cost on a Graviton node, projected from a run somewhere else."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = 10**12


@dataclass(frozen=True)
class Machine:
    """A machine for rent: its cores (on Graviton one vCPU is one), sustained network, price."""

    name: str
    cores: int
    gigabits_per_s: float
    usd_per_hour: float
    priced: str


# AWS's public price list, read on that day.
C8G_16XLARGE = Machine(
    "c8g.16xlarge", 64, 30.0, 2.5523, "us-east-1 on demand, AWS price list of 2026-07-20"
)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A number for planning and no promise: the cores of `machine` were never measured.

    Attributes:
        bound: what the machine would be short of: "cores" or "network".
        text_mb_per_s: of the machine, MB are 10^6 bytes of UTF-8.
        label: what it is projected from.
    """

    machine: str
    priced: str
    usd_per_hour: float
    tokens: int
    bound: str
    text_mb_per_s: float
    hours: float
    usd: float
    label: str = "projection from this machine's cores"

    def __str__(self) -> str:
        return (
            f"${self.usd:,.2f} for 10^12 tokens: {self.hours:,.1f} h of one {self.machine} at "
            f"${self.usd_per_hour}/h ({self.priced}), bound by its {self.bound}; {self.label}"
        )


def project(
    *,
    text_bytes: int,
    tokens: int,
    input_bytes: int,
    shard_bytes: int,
    mb_per_s_per_core: float,
    machine: Machine = C8G_16XLARGE,
) -> Projection | None:
    """The cost of 10^12 tokens of text like this run's; None if it made nothing to go by.

    Each direction of the network carries its part: inputs as they are stored come in, shards go
    out. Its limit for text is the machine's bytes per second over the larger of the two per byte
    of text.

    Args:
        input_bytes: as stored, compressed.
        shard_bytes: written.
        mb_per_s_per_core: text, 10^6 bytes.
    """
    if not (text_bytes and tokens and mb_per_s_per_core > 0):
        return None
    by_cores = mb_per_s_per_core * machine.cores
    carried = max(input_bytes, shard_bytes) / text_bytes
    by_network = machine.gigabits_per_s * 1e9 / 8 / 1e6 / carried if carried else float("inf")
    rate = min(by_cores, by_network)
    hours = TOKENS * (text_bytes / tokens) / (rate * 1e6) / 3600
    return Projection(
        machine=machine.name,
        priced=machine.priced,
        usd_per_hour=machine.usd_per_hour,
        tokens=TOKENS,
        bound="cores" if by_cores <= by_network else "network",
        text_mb_per_s=rate,
        hours=hours,
        usd=hours * machine.usd_per_hour,
    )
