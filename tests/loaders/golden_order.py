"""Writes golden_order.json: which sample comes when, for orders of many shapes.

`python -m tests.loaders.golden_order` made the file once, when a state of the first release could
name a position of it. Saved states mean these orders: the file is never made anew. An order that
has to change gets a new ORDER_VERSION and a golden file of its own, and old states are refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from loaders.order import ORDER_VERSION, Order
from loaders.parts import Deal, History, PartedOrder

GOLDEN = Path(__file__).with_name("golden_order.json")
_WHOLE = 100_000  # an order up to this length is pinned to its last row

# samples, sample_bytes, lanes, seed, shuffle, epoch, parts of a sample
SHAPES = [
    (1, 16384, 960, 0, True, 0, 1),
    (1000, 4096, 4, 42, True, 1, 1),
    (1000, 4096, 4, 42, True, 2, 1),
    (1000, 4096, 4, -1, True, 0, 1),
    (5000, 16384, 960, 7, True, 3, 1),
    (5000, 16384, 960, 7, False, 3, 1),
    (50_000, 1 << 21, 24, 2**64 - 1, True, 0, 1),
    (99_999, 4096, 24, 0, True, 0, 1),
    (3000, 16384, 24, 0, True, 0, 4),
    (24_999, 32768, 960, 5, True, 1, 4),
    (3000, 16384, 24, 0, False, 0, 4),
    (10**9, 4096, 960, 42, True, 1, 1),
    (3_662_109_375, 16384, 960, 0, True, 0, 1),
    (3_662_109_375, 16384, 3840, 2026, True, 7, 8),
]


def described(
    samples: int, sample_bytes: int, lanes: int, seed: int, shuffle: bool, epoch: int, parts: int
) -> dict[str, Any]:
    """One order: what it is of, some of its rows, and a hash of all of them if they are few."""
    order = Order(samples, sample_bytes, lanes, seed, shuffle)
    rows = Deal(order, 1, parts).rows()
    last = rows.samples - 1
    wanted = {*range(12), lanes, 10**6, last // 3, last - 1, last}
    positions = sorted(position for position in wanted if 0 <= position <= last)
    found: dict[str, Any] = {
        "samples": samples,
        "sample_bytes": sample_bytes,
        "lanes": lanes,
        "seed": seed,
        "shuffle": shuffle,
        "epoch": epoch,
        "parts": parts,
        "positions": positions,
        "rows": rows.sample_at(epoch, np.array(positions)).tolist(),
    }
    if last < _WHOLE:
        whole = rows.sample_at(epoch, np.arange(last + 1)).astype("<i8")
        found["xxh3_of_all"] = xxhash.xxh3_64_hexdigest(whole.tobytes())
    return found


# samples, lanes, seq_len, max_seq_len, position, and what was read of its round: [seq_len, rows]
BEGUN = [
    (100, 24, 4, 8, 30, ((8, 10),)),
    (100, 24, 8, 8, 2, ((4, 31),)),
    (100, 24, 3, 12, 220, ((12, 1), (6, 9), (2, 5))),
    (5000, 960, 2048, 8192, 4 * 960 * 2 + 3000, ((8192, 100),)),
]


def described_begun(
    samples: int, lanes: int, seq_len: int, max_seq_len: int, position: int, history: History
) -> dict[str, Any]:
    """What is left of a round in which seq_len changed: its first rows, and a hash of all."""
    rows = Deal(Order(samples, 4096, lanes), seq_len, max_seq_len).rows(position, history)
    assert isinstance(rows, PartedOrder)
    assert rows.begun is not None
    left = np.arange(rows.begun.first, rows.begun.stop)
    given = np.stack([rows.sample_at(0, left), rows.begun.read]).astype("<i8")
    return {
        "samples": samples,
        "lanes": lanes,
        "seq_len": seq_len,
        "max_seq_len": max_seq_len,
        "position": position,
        "begun": [list(pair) for pair in history],
        "first": rows.begun.first,
        "rows": given[0, :12].tolist(),
        "read": given[1, :12].tolist(),
        "xxh3_of_all": xxhash.xxh3_64_hexdigest(given.tobytes()),
    }


if __name__ == "__main__":
    if GOLDEN.exists():
        raise SystemExit(f"{GOLDEN.name} is there and must not change: see this script's docstring")
    orders = ",\n  ".join(json.dumps(described(*shape)) for shape in SHAPES)
    begun = ",\n  ".join(json.dumps(described_begun(*shape)) for shape in BEGUN)
    GOLDEN.write_text(
        f'{{"order_version": {ORDER_VERSION}, "orders": [\n  {orders}\n], '
        f'"begun": [\n  {begun}\n]}}\n'
    )
