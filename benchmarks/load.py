"""How fast batches come, beside the machine's limit and torch's DataLoader over a memory map.

python -m benchmarks.load [--data URI]

Rounds are interleaved, so that what disturbs the machine disturbs all; the median of the rounds
counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from benchmarks.command import guarded
from benchmarks.synthetic import flatten, make_tokens
from loaders import DataLoader, TokenDataset

Batches = Iterator[Mapping[str, torch.Tensor]]


class MemoryMap(TorchDataset[dict[str, torch.Tensor]]):
    """Samples of `seq_len` tokens out of a file of ids, as many training scripts read them."""

    def __init__(self, path: str, dtype: np.dtype, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=dtype, mode="r")
        self.seq_len = seq_len

    def __len__(self) -> int:
        return len(self.tokens) // self.seq_len

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """{"input_ids", "labels"}: int64 [seq_len], tensors of their own."""
        run = self.tokens[item * self.seq_len : (item + 1) * self.seq_len]
        input_ids = torch.from_numpy(run.astype(np.int64))
        return {"input_ids": input_ids, "labels": input_ids.clone()}


def copies(path: str, dtype: np.dtype, batch_size: int, seq_len: int, *, labels: bool) -> Batches:
    """Copy and cast runs of tokens in memory into tensors used again and again."""
    tokens = np.fromfile(path, dtype=dtype)
    size = batch_size * seq_len
    runs = torch.from_numpy(tokens[: len(tokens) // size * size].reshape(-1, batch_size, seq_len))
    out = {"input_ids": torch.empty(batch_size, seq_len, dtype=torch.int64)}
    if labels:
        out["labels"] = torch.empty_like(out["input_ids"])
    for run in itertools.cycle(range(len(runs))):
        out["input_ids"].copy_(runs[run])
        if labels:
            out["labels"].copy_(out["input_ids"])
        yield out


def epochs(loader: TorchDataLoader[dict[str, torch.Tensor]]) -> Batches:
    """The batches of a loader, epoch after epoch."""
    while True:
        yield from loader


def contenders(
    data: str, flat: str, batch_size: int, seq_len: int
) -> dict[str, Callable[[], Batches]]:
    """What is compared, by name; the first is the limit."""
    dataset = TokenDataset(data, seq_len)
    dtype = np.dtype(dataset.stream.dtype)
    mapped = MemoryMap(flat, dtype, seq_len)

    def torch_loader(workers: int) -> Batches:
        return epochs(
            TorchDataLoader(mapped, batch_size, shuffle=True, drop_last=True, num_workers=workers)
        )

    return {
        "copy + cast, reused tensor": lambda: copies(
            flat, dtype, batch_size, seq_len, labels=False
        ),
        "  and labels": lambda: copies(flat, dtype, batch_size, seq_len, labels=True),
        "Stoker": lambda: epochs(DataLoader(dataset, batch_size, shuffle=True, drop_last=True)),
        "torch over memmap, 0 workers": lambda: torch_loader(0),
        "torch over memmap, 2 workers": lambda: torch_loader(2),
    }


def measure(
    running: dict[str, Batches], rounds: int, seconds: float, tokens: int
) -> dict[str, list[float]]:
    """Tokens per second of each contender in each round."""
    rates: dict[str, list[float]] = {name: [] for name in running}
    for batches in running.values():
        for _ in range(16):
            next(batches)
    bar = tqdm(total=rounds * len(running), desc="load", unit="run", leave=False, disable=None)
    with bar:
        for _ in range(rounds):
            for name, batches in running.items():
                count, started = 0, time.perf_counter()
                while (spent := time.perf_counter() - started) < seconds:
                    next(batches)
                    count += 1
                rates[name].append(count * tokens / spent)
                bar.update()
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Median Mtok/s of each, its spread, and its ratio to the first."""
    limit = statistics.median(next(iter(rates.values())))
    lines = [f"{'':30} {'Mtok/s':>9} {'worst - best':>17} {'of limit':>9}"]
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values) / 1e6:.1f} - {max(values) / 1e6:.1f}"
        lines.append(f"{name:30} {middle / 1e6:9.1f} {spread:>17} {middle / limit:9.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", help="token dataset (None: 64 M random tokens are made for it)")
    parser.add_argument("--batch-size", type=int, default=8, help="samples a batch")
    parser.add_argument("--seq-len", type=int, default=2048, help="tokens a sample")
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="stoker-load-") as folder:
            data = chosen.data or make_tokens(Path(folder) / "tokens", tokens=64_000_000)
            flat = flatten(data, Path(folder) / "tokens.bin")
            opened = contenders(data, flat, chosen.batch_size, chosen.seq_len)
            running = {name: start() for name, start in opened.items()}
            tokens = chosen.batch_size * chosen.seq_len
            print(table(measure(running, chosen.rounds, chosen.seconds, tokens)))

    return guarded("load", work)


if __name__ == "__main__":
    sys.exit(main())
