"""What is climbed on the ladder: what feeds the card on each level, and where its data lies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.starvation.cards.accelerator import Batch, Node
from benchmarks.starvation.contenders import Contender, ResidentBatch, Stoker
from benchmarks.starvation.explain.causes import (
    ASSEMBLE,
    FETCH,
    H2D,
    INPUT_CAUSES,
    PREP,
    QUEUE,
    WORKERS,
)
from shards.store import Store, check_key, open_store

MEMORY = Path("/dev/shm")
# A link on which a copy takes no time: what lies on the device needs none.
NO_COPY = Node(h2d_bytes_per_s=1e18)
MADE = (PREP, WORKERS, ASSEMBLE, QUEUE)
# Of a dataset on S3 no more than this is downloaded: it would take longer than all the rest.
MOST_BYTES = 16 * 2**30
_PIECE = 1 << 24


@dataclass(frozen=True)
class Rung:
    """A level before it is measured: what feeds the card there, and which causes that adds."""

    level: str
    title: str
    causes: tuple[str, ...]
    contender: Contender
    node: Node


@dataclass(frozen=True)
class Rungs:
    """The levels that there are, lowest first; and those that there aren't, with the reason."""

    found: tuple[Rung, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def rungs(
    stoker: Stoker,
    batch: Batch,
    node: Node,
    latency_ms: float,
    *,
    scratch: Path | None = None,
    memory: Path = MEMORY,
) -> Iterator[Rungs]:
    """The levels below and of `stoker`, until the block ends.

    Over a local folder L4 reads it from an S3 server of this machine that holds requests back for
    `latency_ms`. A dataset on S3 is downloaded into a folder of `scratch`, by default where
    temporary files lie, which L3 reads; L2 reads a copy of the folder in `memory`. Where a copy has
    no room its level is left out, and its causes belong to the next one.
    """
    found = [
        Rung("L0", "batch resident on the device", (), ResidentBatch(batch), NO_COPY),
        Rung("L1", "batch in memory, and its copy", (H2D,), ResidentBatch(batch), node),
    ]
    scratch = scratch or Path(tempfile.gettempdir())
    with ExitStack() as stack:
        remote = "://" in stoker.uri.removeprefix("file://")
        if remote:
            store = open_store(stoker.uri)
            size = sum(entry.size for entry in store.list())
            if why := no_room(size, scratch, MOST_BYTES):
                last = Rung("L4", "loader over S3", INPUT_CAUSES, stoker, node)
                yield Rungs((*found, last), {"L2": why, "L3": why})
                return
            folder = Path(stack.enter_context(_folder_in(scratch)))
            download(store, folder)
            title, far = "loader over S3", stoker
        else:
            folder = Path(stoker.uri.removeprefix("file://"))
            title, far = f"loader over S3, {latency_ms:g} ms a request", None
        local = replace(stoker, uri=str(folder))
        size = _warm(folder)
        left_out = {}
        if why := no_room(size, memory):
            left_out["L2"] = why
        else:
            copy = stack.enter_context(_folder_in(memory))
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            near = replace(stoker, uri=copy)
            found.append(Rung("L2", "loader over shards in memory", MADE, near, node))
        causes = (*MADE, FETCH) if left_out else (FETCH,)
        found.append(Rung("L3", "loader over warm local shards", causes, local, node))
        far = far or replace(stoker, latency_ms=latency_ms)
        yield Rungs((*found, Rung("L4", title, (FETCH,), far, node)), left_out)


def no_room(size: int, folder: Path, most: int | None = None) -> str | None:
    """Why `size` bytes are not copied into `folder`: they need room twice; None where they are."""
    if most is not None and size > most:
        return f"{_gb(size)} are not downloaded, {_gb(most)} are the most"
    if not folder.is_dir():
        return f"there is no {folder}"
    free = shutil.disk_usage(folder).free
    if free > 2 * size:
        return None
    return f"a copy of {_gb(size)} has no room in {folder}, where {_gb(free)} are free"


def download(store: Store, folder: Path) -> None:
    """Every object of `store` as a file of `folder`."""
    for entry in store.list():
        path = folder / check_key(entry.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, entry.size, _PIECE):
                file.write(store.read(entry.key, start, min(entry.size, start + _PIECE)))


def _folder_in(place: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="stoker-ladder-", dir=place)


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _warm(folder: Path) -> int:
    """Read every file once, so that the system keeps what it has room for; their bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    total += len(piece)
    return total
