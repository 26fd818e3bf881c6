"""An HTTP proxy in front of the S3 server that misbehaves as it is told, and counts how often."""

from __future__ import annotations

import hashlib
import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN_XML = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Fault(Enum):
    """What becomes of a request."""

    SLOW_DOWN = "503 SlowDown, not forwarded"
    RESET = "the connection is reset before the request is forwarded"
    LOST = "the request is served, and the connection reset instead of its answer"
    SHORT = "the answer's body ends half-way; where there is none, as LOST"
    STALL = "nothing at all for a while, then the answer"
    HANG = "half of the answer's body, then nothing for a while, then its end"
    CORRUPT = "one bit of the answer's body is another"


@dataclass(frozen=True)
class Request:
    """What a rule decides by.

    Attributes:
        path: with the query, but for the number that S3 gave an upload.
        again: how many requests of this method and path came before.
    """

    method: str
    path: str
    again: int


@dataclass(frozen=True)
class Served:
    """A request that was answered.

    Attributes:
        line: method and path.
        began, ended: when it came, and when its last byte was sent: monotonic seconds.
        bytes: of the answer's body.
    """

    line: str
    began: float
    ended: float
    bytes: int


Rule = Callable[[Request], Fault | None]
Answer = tuple[int, list[tuple[str, str]], bytes]


def never(request: Request) -> Fault | None:
    """All goes well."""
    return None


def always(fault: Fault) -> Rule:
    """The server never recovers."""
    return lambda request: fault


def first(times: int, fault: Fault, method: str = "") -> Rule:
    """The first `times` requests of each line, of one method if it is named, meet the fault."""
    return lambda request: (
        fault if request.again < times and request.method.startswith(method) else None
    )


def every(times: int, fault: Fault) -> Rule:
    """One in `times` requests of each line meets the fault, never two in a row."""
    return lambda request: fault if request.again % times == times - 1 else None


def of_shards(rule: Rule) -> Rule:
    """Befalls only what is read from shards."""
    return lambda request: rule(request) if "/shards/" in request.path else None


def share_of(share: float, *faults: Fault, seed: int = 0) -> Rule:
    """Each of `faults` befalls its part of a share of all requests, the same ones every time."""

    def rule(request: Request) -> Fault | None:
        line = f"{seed} {request.method} {request.path} {request.again}"
        drawn = int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "big") / 2**64
        return faults[int(drawn / share * len(faults))] if drawn < share else None

    return rule


class FaultyS3:
    """Forwards to an S3 server, but for what its rule says.

    Attributes:
        rule: may be replaced at any time.
        stall_s: how long a stalled request waits.
        latency_s: every request waits between this many seconds and that many.
        met: how many requests met each fault.
        requests: all of them, by method.
        seen: all of them, by method and path.
        served: those that got the server's answer, in the order of their ends.
        refuse: by the request's headers, an answer to be given instead of the server's: status,
            headers, XML.
        amend: the body of an answer of the server's, put right.
    """

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint).netloc
        self.rule: Rule = never
        self.stall_s = 30.0
        self.latency_s = (0.0, 0.0)
        self.refuse: Callable[[Message], Answer | None] = lambda headers: None
        self.amend: Callable[[bytes], bytes] = lambda body: body
        self.met: Counter[Fault] = Counter()
        self.requests: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.served: list[Served] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        proxy = self

        class Handler(_Handler):
            faulty, upstream = proxy, target

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def behave(self, rule: Rule = never) -> None:
        """From now on another rule, counted from nothing."""
        with self._lock:
            self.rule = rule
            self.met.clear()
            self.requests.clear()
            self.seen.clear()
            self.served.clear()

    def decide(self, method: str, path: str) -> Fault | None:
        """What befalls this request; counts it."""
        path = re.sub(r"uploadId=[^&]*", "uploadId=", path)
        line = f"{method} {path}"
        with self._lock:
            fault = self.rule(Request(method, path, self.seen[line]))
            self.seen[line] += 1
            self.requests[method] += 1
            if fault is not None:
                self.met[fault] += 1
        return fault

    def wait(self) -> None:
        """Stalls a request."""
        self._closing.wait(self.stall_s)

    def travel(self) -> None:
        """The time that every request takes to get here."""
        if any(self.latency_s):
            self._closing.wait(random.uniform(*self.latency_s))

    def close(self) -> None:
        """From now on connections are refused."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: FaultyS3
    upstream: str

    def handle(self) -> None:
        with suppress(OSError):  # a client that went away
            super().handle()

    def _serve(self) -> None:
        began = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faulty.decide(self.command, self.path)
        self.faulty.travel()
        refusal = self.faulty.refuse(self.headers)
        if refusal is not None:
            return self._answer(*refusal)
        if fault is Fault.RESET:
            return self._reset()
        if fault is Fault.SLOW_DOWN:
            return self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN_XML)
        if fault is Fault.STALL:
            self.faulty.wait()
        try:
            status, headers, data = self._forward(body)
        except (OSError, http.client.HTTPException):
            return self._reset()
        if fault is Fault.LOST or (fault is Fault.SHORT and not data):
            return self._reset()
        if fault is Fault.CORRUPT and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self._answer(status, headers, data, fault)
        line = f"{self.command} {self.path}"
        self.faulty.served.append(Served(line, began, time.monotonic(), len(data)))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _forward(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self.upstream, timeout=120)
        try:
            # The signature covers the Host that the client saw: it goes on as it is.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            headers = answer.getheaders()
            if (amended := self.faulty.amend(data)) != data:
                headers = [one for one in headers if one[0].lower() != "content-length"]
            return answer.status, headers, amended
        finally:
            connection.close()

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        fault: Fault | None = None,
    ) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        with suppress(OSError):
            self.end_headers()
            if self.command != "HEAD":
                half = len(data) // 2 if fault in (Fault.SHORT, Fault.HANG) else len(data)
                self.wfile.write(data[:half])
                if fault is Fault.HANG:
                    self.faulty.wait()
                    self.wfile.write(data[half:])
        if fault is Fault.SHORT:
            self.close_connection = True

    def _reset(self) -> None:
        # Lingering for zero seconds: the peer gets RST, not FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with suppress(OSError):
            # Python's server shuts down before it closes, which would send FIN.
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def faulty_s3(endpoint: str) -> Iterator[FaultyS3]:
    """Runs the proxy until the block ends."""
    proxy = FaultyS3(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
