"""A TCP proxy in front of the S3 server that can swallow answers or be gone."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Listens on a free port and forwards to `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._stall_left = 0
        self._lock = threading.Lock()
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, connections: int) -> None:
        """The next `connections` answers never come."""
        with self._lock:
            self._stall_left = connections

    def gone(self) -> None:
        """From now on connections are refused, and those there are break."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self._pump, args=(source, sink, answers), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not answers and data.startswith((b"GET", b"HEAD")):
                    self.requests += 1
                if answers and self._swallow():
                    continue
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _swallow(self) -> bool:
        with self._lock:
            if self._stall_left:
                self._stall_left -= 1
                return True
        return False


@contextmanager
def proxy_to(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.gone()
