"""The limit of loading from S3: ranged GETs by s3torchconnector's client, and nothing else.

As many at once and as large as Stoker's own, over the token bytes of the same shards, in stored
order. What arrives is counted and dropped: no checksum, no order, no tensor.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from load_contract import Contender, Task, serve
from s3torchconnector import S3ClientConfig
from s3torchconnector._s3client import S3Client

from shards.dataset import open_dataset

SIZE, AT_ONCE = 1 << 20, 16


class Got(NamedTuple):
    """As many ids as came, told by their shape."""

    shape: tuple[int, int]
    dtype: str = "bytes"

    def sum(self) -> int:
        """Nobody looked at them."""
        return 0


class RangedGets(Contender):
    """One pass over the shards."""

    package = "s3torchconnector"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        parts = urlsplit(task.data)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")

    def open(self, state: dict[str, Any] | None) -> None:
        """See `Contender.open`."""
        stream = open_dataset(self.task.data).stream()
        self.width = stream.dtype.itemsize
        self.reads = [
            (f"{self.prefix}/{shard.path}", start, min(start + SIZE, shard.byte_stop))
            for shard in stream.pieces(0, stream.tokens)
            for start in range(shard.byte_start, shard.byte_stop, SIZE)
        ]
        self.client = S3Client(
            os.environ["AWS_REGION"],
            endpoint=os.environ.get("AWS_ENDPOINT_URL"),
            s3client_config=S3ClientConfig(force_path_style=True),
        )
        self.pool = ThreadPoolExecutor(AT_ONCE)

    def _get(self, key: str, start: int, stop: int) -> Got:
        got = sum(map(len, self.client._get_object_stream(self.bucket, key, start, stop)))
        return Got((1, got // self.width))

    def epoch(self) -> Iterator[Got]:
        """Always as many under way as may be."""
        reads = iter(self.reads)
        under_way: deque[Future[Got]] = deque()
        while True:
            for read in islice(reads, AT_ONCE - len(under_way)):
                under_way.append(self.pool.submit(self._get, *read))
            if not under_way:
                return
            yield under_way.popleft().result()

    def ids(self, batch: Got) -> Got:
        """See `Got`."""
        return batch


if __name__ == "__main__":
    serve(RangedGets)
