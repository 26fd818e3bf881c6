"""The starvation benchmark's loop over a peer's loader, in the peer's own environment.

python starve.py SPEC.json

The loop, the emulated card and what is written down are Stoker's, from the path that PYTHONPATH
names: they need numpy, psutil, pydantic, torch and xxhash here. A line "step" a step goes to
stdout; the recordings go into the spec's folder, one `SEED.npz` each, then `said.json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from load_contract import Contender, Task

from benchmarks.starvation.cards.accelerator import Batch, EmulatedAccelerator, Node
from benchmarks.starvation.cards.profiles import Profile
from benchmarks.starvation.loop.cpu_time import CpuTime
from benchmarks.starvation.loop.epochs import Epochs
from benchmarks.starvation.loop.gather import encode
from benchmarks.starvation.loop.measure import Plan, alone, record

PEERS = {"litdata": "LitData", "mosaicml": "MosaicML", "memmap": "Memmap"}
# A state is saved behind so many batches, which some have to read to get there.
RESUME_BEHIND = 32


class Given(Iterable[Batch]):
    """A peer's epochs as the batches of the loop: ids as int64, its labels or the same ids."""

    def __init__(self, peer: Contender) -> None:
        self.peer = peer

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch, or what is left of the first."""
        for batch in self.peer.epoch():
            ids = self.peer.ids(batch).long()
            labels = batch.get("labels", ids) if isinstance(batch, Mapping) else ids
            yield {"input_ids": ids, "labels": labels}


def main(spec: dict[str, Any]) -> None:
    """Train a run a seed, then see the loader alone."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print, and what their workers inherit, is kept apart from the answers.
    os.dup2(2, 1)
    kind: type[Contender] = getattr(import_module(f"load_{spec['script']}"), PEERS[spec["script"]])
    plan, folder = Plan(**spec["plan"]), Path(spec["folder"])
    device = EmulatedAccelerator(
        Profile(**spec["profile"]), spec["cards"], spec["time_scale"], node=Node(**spec["node"])
    )
    made = 0

    def make(seed: int) -> Contender:
        """Its loader, with an empty folder for its caches."""
        nonlocal made
        made += 1
        own = folder / f"cache-{made}"
        own.mkdir()
        task = Task(**spec["task"])
        return kind(replace(task, folder=str(own), options={**task.options, "seed": seed}))

    said: dict[str, Any] = {}
    for seed in range(spec["seeds"]):
        peer, used = make(seed), CpuTime()
        given: list[Epochs] = []

        def opened(peer: Contender = peer, given: list[Epochs] = given) -> Iterator[Batch]:
            peer.open(None)
            given.append(Epochs(Given(peer), "an epoch without a batch"))
            return given[0]

        recording, batches = record(opened, device, plan, lambda _: answers.write("step\n"), seed)
        begun = tuple(each for each in given[0].begun if each < len(recording.host))
        (folder / f"{seed}.npz").write_bytes(encode(replace(recording, epochs=begun)))
        if seed == spec["seeds"] - 1:
            said["alone"] = asdict(alone(batches, used))
        # Its workers go before the next run's come.
        del batches, given, opened, peer
    device.close()
    said["resume_ms"] = resume(make)
    (folder / "said.json").write_text(json.dumps(said))


def resume(make: Callable[[int], Contender]) -> float | None:
    """Milliseconds from opening at a saved state to the first batch; None: it has no state."""
    peer = make(0)
    task = peer.task
    state = peer.state(min(0.5, RESUME_BEHIND * task.rows / task.samples))
    if state is None:
        return None
    # The one that was saved goes before the one that goes on comes.
    del peer
    peer = make(0)
    began = time.perf_counter()
    peer.open(state)
    next(iter(Given(peer)))
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
