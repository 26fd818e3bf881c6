"""Who takes part in the load benchmark, on local files and on S3."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contest import missing
from benchmarks.loading.driver import Entry

CEILING, GETS = "copy + cast", "ranged GETs, nothing else"
STOKER = "Stoker"
STREAMED = "Stoker, streaming"
# Names of `make peers`; the others run in Stoker's own environment.
PEERS = ("datasets", "litdata", "mosaicml", "s3torchconnector", "torch")
TOKENS = "tokens"


def streaming(data_bytes: int) -> dict[str, int]:
    """Options that make Stoker stream: memory for a quarter of the data, blocks of up to 1 MiB."""
    return {
        "prefetch_bytes": data_bytes // 4,
        "lanes": min(64, max(4, data_bytes // (16 << 20))),
    }


def pick(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    """The limit, and those with one of the words in their name; without words all of them."""
    return [
        entry
        for number, entry in enumerate(entries)
        if not number or not only or any(word.lower() in entry.name.lower() for word in only)
    ]


def local_entries(data_bytes: int, peers: Sequence[str]) -> list[Entry]:
    """On local files; the first is the limit."""
    stream = streaming(data_bytes)
    own = [
        Entry(CEILING, "ceiling", options={"labels": False}),
        Entry(f"{CEILING} + labels", "ceiling", options={"labels": True}),
        Entry(STOKER, "stoker", data=TOKENS),
        Entry(STREAMED, "stoker", data=TOKENS, options={**stream, "repeat": True}),
        Entry(f"{STREAMED} by epochs", "stoker", data=TOKENS, options=stream),
    ]
    others = {
        "litdata": _by_workers("litData TokensLoader", "litdata", "litdata"),
        "mosaicml": _by_workers("MosaicML Streaming", "mosaicml", "mosaicml"),
        "torch": _by_workers("torch over memmap", "memmap", ""),
        "datasets": _by_workers("HF datasets", "datasets", "datasets"),
    }
    return own + [entry for peer in peers for entry in others.get(peer, [])]


def s3_entries(data_bytes: int, peers: Sequence[str]) -> list[Entry]:
    """On S3; the first is the limit."""
    own = [
        Entry(GETS, "ranged_gets", data=TOKENS),
        Entry(STOKER, "stoker", data=TOKENS),
        Entry(STREAMED, "stoker", data=TOKENS, options=streaming(data_bytes)),
    ]
    connector, data = "s3torchconnector", "objects"
    others = {
        "litdata": _by_workers("litData TokensLoader", "litdata", "litdata"),
        "mosaicml": _by_workers("MosaicML Streaming", "mosaicml", "mosaicml"),
        connector: [
            Entry(
                "S3IterableDataset",
                connector,
                data=data,
                options={"style": "iterable", "workers": 0},
            ),
            Entry(
                "S3MapDataset, 2 workers",
                connector,
                data=data,
                options={"style": "map", "workers": 2},
            ),
        ],
    }
    return own + [entry for peer in peers for entry in others.get(peer, [])]


def absent(entry: Entry) -> str | None:
    """Why it can't be run; None when it can."""
    return missing(entry.venv) if entry.venv else None


def _by_workers(name: str, script: str, venv: str) -> list[Entry]:
    return [
        Entry(f"{name}, {workers} workers", script, venv, {"workers": workers}, script)
        for workers in (0, 2)
    ]
