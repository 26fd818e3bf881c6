"""S3, or anything that speaks its protocol, through boto3.

The endpoint comes from `AWS_ENDPOINT_URL`, credentials and region the usual AWS way.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pyarrow as pa
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from shards.errors import CutShort, MissingObject, StoreError, Unavailable
from shards.patience import persist
from shards.store import Bytes, Entry, check_key

T = TypeVar("T")

_PART_BYTES = 16 << 20
_LISTED_TOGETHER = 8
_DELETED_TOGETHER = 1000  # as many as S3 takes in a request
_CREDENTIALS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_CREDENTIALS |= {"InvalidToken", "403", "Forbidden", "AllAccessDisabled"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
# NoSuchUpload: an upload that was completed, and whose answer was lost.
_LATER = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "NoSuchUpload"}
_LATER_STATUS = {429, 500, 502, 503, 504}


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` -> (`bucket`, `some/prefix`). Raises StoreError."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise StoreError(f"{uri}: {bucket!r} is no bucket name; write s3://bucket/prefix")
    return bucket, prefix.strip("/")


def s3_client() -> Any:
    """This process's S3 client for the present AWS_* environment; threads may share it."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client(os.getpid(), settings)


@lru_cache(maxsize=8)
def _client(pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    environment = dict(settings)
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    config = Config(
        # Each request three times within a second or two; then `persist` goes on.
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=5,
        # Of silence. S3 answers within a second or two, so this one has forgotten us.
        read_timeout=20,
        max_pool_connections=32,
        # Servers that are not AWS answer a ranged GET with the whole object's checksum.
        request_checksum_calculation="when_required" if endpoint else None,
        response_checksum_validation="when_required" if endpoint else None,
        s3={"addressing_style": "path"} if endpoint else None,
    )
    try:
        session = boto3.Session()
        return session.client("s3", region_name=session.region_name or "us-east-1", config=config)
    except (BotoCoreError, ValueError) as error:
        raise StoreError(
            f"no S3 client: {error}. Check AWS_ENDPOINT_URL and AWS_PROFILE"
        ) from error


@contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """botocore's errors inside become StoreErrors that say what to check."""
    try:
        yield
    except ClientError as error:
        raise _in_words(uri, error) from error
    except EndpointConnectionError as error:
        raise Unavailable(
            f"{uri}: the S3 endpoint refuses connections or can't be found ({error}). "
            "Check AWS_ENDPOINT_URL and the network"
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(
            f"{uri}: no AWS credentials. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role"
        ) from error
    except (IncompleteReadError, ResponseStreamingError) as error:
        raise Unavailable(f"{uri}: S3's answer ended early ({error})") from error
    except CredentialRetrievalError as error:
        # A role's: many machines that ask at once are told to wait.
        raise Unavailable(f"{uri}: {error}") from error
    except (ConnectionError, HTTPClientError, HTTPError) as error:
        raise Unavailable(f"{uri}: S3 does not answer ({error})") from error
    except BotoCoreError as error:
        raise StoreError(f"{uri}: {error}") from error


def _in_words(uri: str, error: ClientError) -> StoreError:
    answer = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
    if code == "NoSuchBucket":
        return StoreError(f"{uri}: no such bucket. Check its name, and AWS_ENDPOINT_URL")
    if code in _MISSING:
        return MissingObject(f"{uri}: no such object")
    if code in _CREDENTIALS:
        return StoreError(
            f"{uri}: S3 refuses these credentials ({code}). Check the keys or the role, and its "
            "right to this bucket and prefix"
        )
    if code == "InvalidRange":
        return CutShort(f"{uri}: it ends before the bytes that were asked for: is it cut short?")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in _LATER or status in _LATER_STATUS:
        return Unavailable(f"{uri}: S3 answers {code}: {message}")
    return StoreError(f"{uri}: S3 answers {code}: {message}")


def request(uri: str, send: Callable[[Any], T]) -> T:
    """What `send` returns when given a client; again while S3 doesn't answer.

    Args:
        uri: what it is about, for errors.

    Raises:
        StoreError: S3 refuses, or didn't answer in all that time; see `shards.patience`.
    """

    def attempt() -> T:
        with s3_errors(uri):
            return send(s3_client())

    return persist(attempt)


def get_object(bucket: str, key: str, start: int = 0, stop: int | None = None) -> tuple[bytes, str]:
    """Bytes [start, stop) of an object, and its etag.

    Raises:
        CutShort: the object ends before `stop`.
        StoreError: as `request`.
    """
    uri = f"s3://{bucket}/{key}"
    where = {"Bucket": bucket, "Key": key}
    if start or stop is not None:
        where["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

    def send(client: Any) -> tuple[bytes, str]:
        answer = client.get_object(**where)
        with closing(answer["Body"]) as body:
            return body.read(), answer["ETag"].strip('"')

    data, etag = request(uri, send)
    if stop is not None and len(data) < stop - start:
        raise CutShort(f"{uri}: {len(data)} bytes came of {start}-{stop}: cut short?")
    if stop is not None and len(data) > stop - start:
        raise StoreError(f"{uri}: the server can't read a range: it sent {len(data)} bytes")
    return data, etag


def _transfer(use_threads: bool) -> TransferConfig:
    return TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        max_concurrency=4,
        use_threads=use_threads,
    )


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, uri: str) -> None:
        self._bucket, self._prefix = split_uri(uri)
        self.uri = f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}" if self._prefix else check_key(key)

    def _request(self, key: str, send: Callable[[Any], T]) -> T:
        return request(f"{self.uri}/{key}", send)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        return get_object(self._bucket, self._key(key), start, stop)[0]

    def size(self, key: str) -> int:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        head = self._request(key, lambda client: client.head_object(**where))
        return int(head["ContentLength"])

    def write(self, key: str, data: Bytes) -> None:
        where = self._bucket, self._key(key)
        how = _transfer(memoryview(data).nbytes >= _PART_BYTES)
        # Another reader for each attempt; an upload in parts that fails is aborted by boto3.
        self._request(
            key,
            lambda client: client.upload_fileobj(pa.BufferReader(data), *where, Config=how),
        )

    def list(self, prefix: str = "") -> Iterator[Entry]:
        base = f"{self._prefix}/" if self._prefix else ""
        where = {"Bucket": self._bucket, "Prefix": base + prefix}
        while True:
            page = self._request(prefix, partial(_list_page, where))
            for item in page.get("Contents", ()):
                key = str(item["Key"])[len(base) :]
                yield Entry(key, int(item["Size"]), str(item["ETag"]).strip('"'))
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def list_many(self, prefixes: Sequence[str]) -> Iterator[Entry]:
        # A page holds 1,000 names and takes a tenth of a second.
        with ThreadPoolExecutor(_LISTED_TOGETHER, "list") as pool:
            for entries in pool.map(lambda prefix: list(self.list(prefix)), prefixes):
                yield from entries

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except MissingObject:
            return False
        return True

    def delete(self, key: str) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        self._request(key, lambda client: client.delete_object(**where))

    def delete_many(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _DELETED_TOGETHER):
            named = [{"Key": self._key(key)} for key in keys[first : first + _DELETED_TOGETHER]]
            answer = self._request(keys[first], partial(_delete_together, self._bucket, named))
            for error in answer.get("Errors", ()):
                raise StoreError(
                    f"s3://{self._bucket}/{error.get('Key')}: S3 answers {error.get('Code')}: "
                    f"{error.get('Message')}"
                )

    def torsos(self) -> Iterator[Entry]:
        base = f"{self._prefix}/" if self._prefix else ""
        where = {"Bucket": self._bucket, "Prefix": base}
        while True:
            page = self._request("", partial(_list_uploads, where))
            for upload in page.get("Uploads", ()):
                key, number = str(upload["Key"]), str(upload["UploadId"])
                yield Entry(key[len(base) :], self._uploaded(key, number), number)
            if not page.get("IsTruncated"):
                return
            where["KeyMarker"] = page["NextKeyMarker"]
            where["UploadIdMarker"] = page["NextUploadIdMarker"]

    def _uploaded(self, key: str, number: str) -> int:
        """Bytes that an unfinished upload holds, and that are paid for."""
        where = {"Bucket": self._bucket, "Key": key, "UploadId": number}
        answer = self._request(key, lambda client: client.list_parts(**where))
        return sum(int(part["Size"]) for part in answer.get("Parts", ()))

    def delete_torso(self, torso: Entry) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(torso.key), "UploadId": torso.etag}
        self._request(torso.key, partial(_abort_upload, where))

    @contextmanager
    def spool(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="stoker-") as folder:
            yield Path(folder, "spool")

    def write_file(self, key: str, path: Path) -> None:
        def send(client: Any) -> None:
            with path.open("rb") as file:
                client.upload_fileobj(file, self._bucket, self._key(key), Config=_transfer(True))

        self._request(key, send)


def _list_page(where: Mapping[str, str], client: Any) -> Any:
    return client.list_objects_v2(**where)


def _list_uploads(where: Mapping[str, str], client: Any) -> Any:
    try:
        return client.list_multipart_uploads(**where)
    except ClientError as error:
        # rclone says this of a bucket without any; others don't know what uploads in parts are.
        if error.response["Error"]["Code"] in {"NoSuchUpload", "NotImplemented"}:
            return {}
        raise


def _abort_upload(where: Mapping[str, str], client: Any) -> None:
    try:
        client.abort_multipart_upload(**where)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise


def _delete_together(bucket: str, objects: Sequence[Mapping[str, str]], client: Any) -> Any:
    return client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
