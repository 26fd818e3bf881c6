"""The one place that touches s3torchconnector: ranged GETs over the AWS CRT.

`S3Client._get_object_stream` is private (though its README documents the client): it is the only
ranged read that costs a single request, without a HEAD. The connector's version is therefore
checked, and nothing else of it is used. What it does not have, `fetch.py` adds: a deadline, retries
that can be abandoned, checksums.
"""

import os
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


class S3Source:
    """Objects under `s3://bucket/prefix`, by the usual AWS variables and `AWS_ENDPOINT_URL`."""

    threads = 16

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, prefix = split_uri(uri)
        self._prefix = f"{prefix}/" if prefix else ""

    def read(self, read: Read, scratch: Scratch) -> memoryview:
        buffer = scratch.take(read.stop - read.start)
        got = 0
        try:
            for part in _get(self._bucket, self._prefix + read.key, read.start, read.stop):
                if got + len(part) > len(buffer):
                    raise TransientError("the answer was longer than the range asked for")
                buffer[got : got + len(part)] = part
                got += len(part)
        except S3Exception as error:
            raise self._in_words(error, read) from error
        if got < len(buffer):
            raise short_object(self.uri, read, got)
        return buffer

    def _in_words(self, error: S3Exception, read: Read) -> Exception:
        text, where = str(error), f"{self.uri}/{read.key}"
        if "key does not exist" in text or "NoSuchKey" in text:
            return MissingObject(f"{where}: no such object")
        if "bucket does not exist" in text or "NoSuchBucket" in text:
            return StoreError(f"s3://{self._bucket}: no such bucket")
        if "Forbidden" in text or "AccessDenied" in text or "credentials" in text:
            return StoreError(
                f"{where}: access denied. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the "
                f"profile or role) and the bucket's policy. The server said: {text[:300]}"
            )
        if "InvalidRange" in text or "response_status: 416" in text:
            return short_object(self.uri, read, 0)
        return TransientError(text[:300])


# One client in a process: it holds the connections. The connector drops it before a fork, and a
# forked child makes its own.
_clients: dict[tuple[int, str, str | None], Any] = {}
_lock = Lock()


def _get(bucket: str, key: str, start: int, stop: int) -> Iterable[bytes]:
    """One ranged GET, end exclusive. Blocks outside the interpreter lock."""
    return cast(Iterable[bytes], _client()._get_object_stream(bucket, key, start, stop))


def _client() -> Any:
    endpoint = endpoint_url()
    name = (os.getpid(), _region(), endpoint)
    client = _clients.get(name)
    if client is None:
        with _lock:
            client = _clients.get(name)
            if client is None:
                client = _clients[name] = _new_client(name[1], endpoint)
    return client


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
