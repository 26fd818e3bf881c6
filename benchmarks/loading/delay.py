"""A proxy in a process of its own that holds every request back for a while: a store's latency.

python -m benchmarks.loading.delay HOST:PORT MILLISECONDS

It listens on a free port of 127.0.0.1, which it prints, and ends with its stdin. A request is held
back once, when it begins; answers pass as they come, and opening a connection costs nothing extra.
It is for clients that read: a body of a request that looked like one would be held back too.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from pipelines.connect import ROOT
from shards.errors import StokerError

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")
_PIECE = 1 << 18


@contextmanager
def delayed(endpoint: str, milliseconds: float) -> Iterator[str]:
    """Runs the proxy before `endpoint` until the block ends; its own endpoint.

    Raises:
        StokerError: it did not start.
    """
    target = urlsplit(endpoint).netloc
    command = [sys.executable, "-m", "benchmarks.loading.delay", target, str(milliseconds)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().decode().strip()
            if not port:
                raise StokerError("the proxy that delays requests did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def serve(target: tuple[str, int], seconds: float) -> socket.socket:
    """Starts to forward connections to `target`, from threads; the socket that listens."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threading.Thread(target=_accept, args=(listener, target, seconds), daemon=True).start()
    return listener


def _accept(listener: socket.socket, target: tuple[str, int], seconds: float) -> None:
    while True:
        try:
            client, _ = listener.accept()
            server = socket.create_connection(target)
        except OSError:
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, wait in ((client, server, seconds), (server, client, 0.0)):
            threading.Thread(target=_pump, args=(source, sink, wait), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, wait: float) -> None:
    buffer = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while got := source.recv_into(buffer):
            if wait and bytes(buffer[:8]).startswith(_METHODS):
                time.sleep(wait)
            sink.sendall(buffer[:got])
    for one, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            one.shutdown(how)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until nobody holds its stdin any more."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading.delay")
    parser.add_argument("target")
    parser.add_argument("milliseconds", type=float)
    chosen = parser.parse_args(arguments)
    host, _, port = chosen.target.rpartition(":")
    listener = serve((host, int(port)), chosen.milliseconds / 1000)
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
