"""`--ranks N`: this command N times, as processes that find each other; all end with the first.

Under torchrun nothing is started here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

import torch.distributed as dist

from benchmarks.starvation.loop.world import STORE
from shards.errors import StokerError

POLL_S = 0.05
# After the first has ended: others may have died of it, or have been the reason and be noticed now.
GRACE_S = 0.5
ENDING_S = 5.0
HERE = "127.0.0.1"


def launch(arguments: Sequence[str], ranks: int, module: str = "benchmarks.starvation") -> None:
    """Run `python -m module *arguments` in `ranks` processes and wait for them.

    Rank 0 speaks: its output is this process's. Of another rank that fails the last line is told.

    Raises:
        StokerError: a rank failed, named by its number; the others were ended.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]
        HERE, 0, is_master=True, wait_for_workers=False
    )
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(ranks)]
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(end, processes)
        for rank in range(ranks):
            output = None if rank == 0 else said[rank]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    env=environment(rank, ranks, store.port),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            )
        failed = wait(processes)
        if failed is not None:
            raise StokerError(_why(failed, processes[failed].returncode, ranks, said[failed]))


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Of a rank's process. All share the cores, unless somebody chose the number of threads."""
    cores = len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, cores // ranks))} | os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        STORE: f"{HERE}:{port}",
    }  # fmt: skip


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Until all have ended well, or one has not: its number.

    A rank that was killed before one that gave up: the others give up because of it.
    """
    while not any(first := [process.poll() or 0 for process in processes]):
        if all(process.returncode == 0 for process in processes):
            return None
        time.sleep(POLL_S)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(each.poll() is None for each in processes):
        time.sleep(POLL_S)
    later = [process.poll() or 0 for process in processes]
    killed = [[min(0, code) for code in codes] for codes in (first, later)]
    decisive = next(codes for codes in (*killed, first) if any(codes))
    return next(rank for rank, code in enumerate(decisive) if code)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Whatever still runs is asked to end, then killed."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + ENDING_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _why(rank: int, code: int, ranks: int, said: IO[bytes]) -> str:
    how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    words = f", saying: {lines[-1]}" if lines else (": see above" if code > 0 else "")
    return f"rank {rank} of {ranks} {how}{words}; the other ranks were ended with it"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
