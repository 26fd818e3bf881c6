"""How fast batches come, beside the machine's limit and beside other loaders.

python -m benchmarks.load [--store local s3] [--json FILE]
python -m benchmarks.load --soak MINUTES

One run, one set of random ids, which every contender gets in its own format before the clock
starts. A contender is a process of its own: its tokens per second, the time from one batch to the
next (99th percentile and longest), CPU, memory, threads and processes are those of it and all it
started. "first s" is from opening data and loader to the first batch, imports apart; "resume s" the
same from a state saved at 90 % of an epoch, in a new process. Each is also asked for one whole
epoch, whose tokens and sum of ids are compared with the source's.

Local files: the limit is a copy and cast of ids in memory into a tensor that is used again, which
no loader can do without. Rounds are interleaved, so that what disturbs the machine disturbs all;
medians count. Stoker is measured with the data kept in memory, as it is where it fits, and
streaming through memory for a quarter of it, over epochs by repeat() and by plain loops.

S3: a real server (rclone on loopback) behind a proxy that holds each request back for a while, the
same for all. The limit is ranged GETs by s3torchconnector's client and nothing else. Every round is
a new process with empty caches, and ends with the epoch at the latest.

Peers run where `make peers` installed them; one that isn't there is a line that says so. The soak
streams from S3 through repeat() and says whether memory, threads and file descriptors stay flat.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import guarded
from benchmarks.environment import environment
from benchmarks.loading.contest import Effort, compare_local, compare_s3, make_data
from benchmarks.loading.entries import PEERS, local_entries, pick, s3_entries
from benchmarks.loading.soak import soak
from benchmarks.loading.standings import Standings
from benchmarks.s3_server import serve_s3

TOKENS = 1 << 27
SOAK_TOKENS = 1 << 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    chosen = make_parser().parse_args(arguments)

    def work() -> None:
        if chosen.soak:
            curve = soak(chosen.soak * 60, chosen.tokens or SOAK_TOKENS, chosen.latency[0])
            print(curve.table())
            content: dict[str, Any] = {"soak": curve.content()}
        else:
            content = {"standings": [one.content() for one in compare(chosen)]}
        if chosen.json:
            content["environment"] = environment()
            chosen.json.write_text(json.dumps(content, indent=1) + "\n")

    return guarded("load", work)


def compare(chosen: argparse.Namespace) -> list[Standings]:
    """Measures, and prints each table when it is there."""
    found: list[Standings] = []
    with tempfile.TemporaryDirectory(prefix="stoker-load-") as name:
        folder = Path(name)
        tokens = chosen.tokens or TOKENS
        data = make_data(folder / "objects", tokens, chosen.batch_size, chosen.seq_len)
        print(
            f"{data.tokens:,} tokens ({data.bytes / 1e6:.0f} MB as {data.dtype}), batches of "
            f"{data.rows} x {data.seq_len}"
        )
        if "local" in chosen.store:
            effort = Effort(chosen.rounds, chosen.seconds, chosen.openings)
            entries = pick(local_entries(data.bytes, chosen.peers), chosen.only)
            found.append(compare_local(entries, data, effort))
            show(found[-1])
        if "s3" in chosen.store:
            effort = Effort(chosen.openings, chosen.s3_seconds, chosen.openings)
            entries = pick(s3_entries(data.bytes, chosen.peers), chosen.only)
            with serve_s3(folder, etags=False) as server:
                for one in compare_s3(entries, data, effort, server, chosen.latency):
                    found.append(one)
                    show(one)
    return found


def show(one: Standings) -> None:
    """The table, and the aims under it."""
    print("\n".join(["", one.table(), *one.summary()]), flush=True)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--store",
        nargs="+",
        choices=("local", "s3"),
        default=["local", "s3"],
        help="where the data is read from (default: both)",
    )
    add("--tokens", type=int, help=f"ids to make (default: {TOKENS:,}; soak: {SOAK_TOKENS:,})")
    add("--batch-size", type=int, default=8, help="samples a batch (default: 8)")
    add("--seq-len", type=int, default=2048, help="tokens a sample (default: 2048)")
    add("--rounds", type=int, default=5, help="local rounds of each (default: 5)")
    add("--seconds", type=float, default=2.0, help="of a local round (default: 2)")
    add("--s3-seconds", type=float, default=10.0, help="of a round from S3, at most (default: 10)")
    add(
        "--openings",
        type=int,
        default=3,
        help="new processes of each for the time of resuming, and rounds from S3 (default: 3)",
    )
    add(
        "--latency",
        nargs="+",
        type=float,
        default=[0.0, 20.0, 100.0],
        metavar="MS",
        help="milliseconds the proxy holds each request back (default: 0 20 100; soak: the first)",
    )
    add(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        help=f"who else takes part (default: {' '.join(PEERS)})",
    )
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="those with one of these words in their name, and the limit",
    )
    add("--soak", type=float, metavar="MINUTES", help="stream for so long and watch, nothing else")
    add("--json", type=Path, metavar="FILE", help="write every round there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
