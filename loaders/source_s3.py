"""The one place that touches s3torchconnector: ranged GETs over the AWS CRT.

`S3Client._get_object_stream` is private (though its README documents the client): it is the only
ranged read that costs a single request, without a HEAD. The connector's version is therefore
checked, and nothing else of it is used. What it does not have, `fetch.py` adds: a deadline, retries
that can be abandoned, checksums.

The CRT looks credentials up by itself (environment, profile, web identity, container, instance) and
keeps them for up to 15 minutes. When those that have worked are refused, the client is replaced by
a new one, which looks them up again. A bucket in another region says so, and is asked there.
"""

import os
import re
import time
from collections.abc import Iterable
from importlib.metadata import version
from threading import Lock
from typing import Any, cast
from urllib.parse import urlsplit

from s3torchconnector import S3ClientConfig, S3Exception

from loaders.source import Read, Scratch, TransientError, short_object
from shards.errors import MissingObject, StoreError
from shards.s3 import s3_client, split_uri

_TESTED = (1, 5)
_RENEW_SECONDS = 5.0
_WRONG_REGION = re.compile(r"Wrong region \(expecting ([a-z0-9-]+)\)")
_DENIED = ("Forbidden", "AccessDenied", "credentials", "TOKEN_EXPIRED")


class S3Source:
    """Objects under `s3://bucket/prefix`, by the usual AWS variables and `AWS_ENDPOINT_URL`."""

    threads = 16

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, prefix = split_uri(uri)
        self._prefix = f"{prefix}/" if prefix else ""
        self._region: str | None = None  # the bucket's, if it is not the one that is configured
        self._answered = False

    def read(self, read: Read, scratch: Scratch) -> memoryview:
        buffer = scratch.take(read.stop - read.start)
        got = 0
        client = _client(self._region or _region())
        try:
            key = self._prefix + read.key
            for part in _get(client, self._bucket, key, read.start, read.stop):
                if got + len(part) > len(buffer):
                    raise TransientError("the answer was longer than the range asked for")
                buffer[got : got + len(part)] = part
                got += len(part)
        except S3Exception as error:
            if not (read.at_most and _out_of_range(error)):
                raise self._in_words(error, read, client) from error
        self._answered = True
        if got < len(buffer) and not read.at_most:
            raise short_object(self.uri, read, got)
        return buffer[:got]

    def _in_words(self, error: S3Exception, read: Read, client: Any) -> Exception:
        text, where = str(error), f"{self.uri}/{read.key}"
        if "key does not exist" in text or "NoSuchKey" in text:
            return MissingObject(f"{where}: no such object")
        if "bucket does not exist" in text or "NoSuchBucket" in text:
            return StoreError(f"s3://{self._bucket}: no such bucket")
        if region := _WRONG_REGION.search(text):
            self._region = region[1]
            return TransientError(f"the bucket lies in region {region[1]}")
        if "throttled" in text or "SlowDown" in text:
            return TransientError(text[:300], throttled=True)
        if any(word in text for word in _DENIED):
            if self._answered:
                # Expired, or a role's that could not be had just now.
                _renew(client)
                return TransientError(f"credentials that worked are refused: {text[:300]}")
            return StoreError(
                f"{where}: access denied. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the "
                f"profile or role) and the bucket's policy. The server said: {text[:300]}"
            )
        if _out_of_range(error):
            return short_object(self.uri, read, 0)
        return TransientError(text[:300])


def _out_of_range(error: S3Exception) -> bool:
    """The object ends before the range begins."""
    return "InvalidRange" in str(error) or "response_status: 416" in str(error)


# One client in a process: it holds the connections. The connector drops it before a fork, and a
# forked child makes its own.
_clients: dict[tuple[int, str, str | None], Any] = {}
_lock = Lock()
_renewed = 0.0


def _get(client: Any, bucket: str, key: str, start: int, stop: int) -> Iterable[bytes]:
    """One ranged GET, end exclusive. Blocks outside the interpreter lock."""
    return cast(Iterable[bytes], client._get_object_stream(bucket, key, start, stop))


def _client(region: str) -> Any:
    endpoint = endpoint_url()
    name = (os.getpid(), region, endpoint)
    client = _clients.get(name)
    if client is None:
        with _lock:
            client = _clients.get(name)
            if client is None:
                client = _clients[name] = _new_client(region, endpoint)
    return client


def _renew(client: Any) -> None:
    """Has the next read make a new client, which looks the credentials up again; not too often."""
    global _renewed
    with _lock:
        now = time.monotonic()
        name = next((name for name, one in _clients.items() if one is client), None)
        if name is not None and now - _renewed > _RENEW_SECONDS:
            _renewed = now
            del _clients[name]


def _new_client(region: str, endpoint: str | None) -> Any:
    installed = version("s3torchconnector")
    if tuple(map(int, installed.split(".")[:1])) != _TESTED[:1]:
        raise StoreError(
            f"s3torchconnector {installed} is installed; this loader was written for "
            f"{_TESTED[0]}.{_TESTED[1]} and later versions of {_TESTED[0]}. Install one of those."
        )
    try:
        from s3torchconnector._s3client import S3Client
    except ImportError as error:
        raise StoreError(
            f"s3torchconnector {installed} has no _s3client.S3Client any more; install 1.5.0"
        ) from error
    # Its own retries can't be interrupted: one attempt, ours are in fetch.py.
    config = S3ClientConfig(max_attempts=1, force_path_style=endpoint is not None)
    return S3Client(region, endpoint=endpoint, s3client_config=config)


def endpoint_url() -> str | None:
    """The S3 endpoint named by the environment, checked; None for AWS itself.

    Raises:
        StoreError: not a http(s) URL with a host. (The connector would panic on it.)
    """
    value = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not value:
        return None
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in value):
        raise StoreError(
            f"AWS_ENDPOINT_URL is {value!r}: it must look like http://host:port or https://host"
        )
    return value


def _region() -> str:
    return (
        os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or str(s3_client().meta.region_name)
    )


def _forget_clients() -> None:
    global _lock
    _lock = Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget_clients)
