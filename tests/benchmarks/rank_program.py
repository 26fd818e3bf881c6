"""One rank of a monitored run: rank 1 works longer, and all exchange a number in every step.

python -m tests.benchmarks.rank_program FOLDER RANK RANKS marked|opaque
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.starvation import StarvationMonitor
from benchmarks.starvation.cards.accelerator import wait_until

STEPS, OWN_MS, LATE_MS = 30, 3, 15


def main(folder: Path, rank: int, ranks: int, marked: bool) -> None:
    """Write the report of all ranks, as this rank has it, to `folder`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks
    )
    number = torch.ones(1)
    data = [{"input_ids": torch.ones(2, 8, dtype=torch.int64)}] * STEPS
    with StarvationMonitor(data, device="cpu") as monitor:
        for _ in monitor:
            # Sleeping: two ranks that spin would be one another's stragglers on a busy machine.
            own = LATE_MS if rank == 1 else OWN_MS
            wait_until(time.perf_counter_ns() + own * 1_000_000)
            if marked:
                with monitor.span("communication"):
                    dist.all_reduce(number)
            else:
                dist.all_reduce(number)
    (folder / f"report-{rank}.json").write_text(monitor.report().to_json())
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "marked")
