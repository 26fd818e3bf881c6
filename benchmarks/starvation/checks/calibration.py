"""How well the emulated accelerator agrees with a real one: what was found, kept beside the code.

`calibrate.py` measures it, `session.py` is the command. Reports say what stands here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.errors import StokerError

RECORD = Path(__file__).with_name("calibration.json")
UNCALIBRATED = "uncalibrated"
AU_POINTS, GAP_SHARE = 0.01, 0.2
# Gaps that differ by less are a timer's, not the emulator's.
GAP_FLOOR_MS = 0.5


@dataclass(frozen=True)
class Pair:
    """One contender before both accelerators: share of time computed, p99 of its gaps in ms."""

    contender: str
    au: float
    emulated_au: float
    gap_p99_ms: float
    emulated_gap_p99_ms: float

    @property
    def au_off(self) -> float:
        """Difference of the two, 0 to 1."""
        return abs(self.au - self.emulated_au)

    @property
    def gap_off(self) -> float:
        """Difference as a share of the real one's; 0 below `GAP_FLOOR_MS`."""
        off = abs(self.gap_p99_ms - self.emulated_gap_p99_ms)
        return off / max(self.gap_p99_ms, GAP_FLOOR_MS) if off > GAP_FLOOR_MS else 0.0


@dataclass(frozen=True)
class Calibration:
    """`pairs` of one `accelerator` (its title), compared on `date`."""

    accelerator: str
    date: str
    pairs: tuple[Pair, ...]

    @property
    def holds(self) -> bool:
        """AU within a point and the p99 gap within 20 %, of every contender; some were compared."""
        return bool(self.pairs) and all(
            pair.au_off <= AU_POINTS and pair.gap_off <= GAP_SHARE for pair in self.pairs
        )

    @property
    def words(self) -> str:
        """What a report says of it."""
        if not self.pairs:
            return UNCALIBRATED
        au = 100 * max(pair.au_off for pair in self.pairs)
        gap = 100 * max(pair.gap_off for pair in self.pairs)
        kind = "calibrated against" if self.holds else f"{UNCALIBRATED}: off, compared with"
        return (
            f"{kind} {self.accelerator} on {self.date}: AU within {au:.1f} points,"
            f" p99 gap within {gap:.0f} %"
        )


def write(calibrations: Sequence[Calibration], path: Path = RECORD) -> Path:
    """Keep them in `path`, where those of other accelerators stay; `path`."""
    kept = {each.accelerator: each for each in (*read(path), *calibrations)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in kept.values()], indent=1) + "\n")
    return path


def read(path: Path = RECORD) -> tuple[Calibration, ...]:
    """What was written; nothing where there is no such file.

    Raises:
        StokerError: a file that `write` did not write.
    """
    if not path.exists():
        return ()
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return tuple(
            Calibration(
                str(row["accelerator"]),
                str(row["date"]),
                tuple(Pair(**pair) for pair in row["pairs"]),
            )
            for row in rows
        )
    except (ValueError, TypeError, KeyError) as error:
        raise StokerError(f"{path} is no record of calibrations: {error}; remove it") from error


def words(path: Path | None = None) -> str:
    """Of all of them, in a sentence: that one does not hold must not be lost beside others."""
    return "; ".join(each.words for each in read(path or RECORD)) or UNCALIBRATED
