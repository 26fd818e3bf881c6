"""S3, or anything that speaks its protocol, through boto3.

The endpoint comes from `AWS_ENDPOINT_URL`, credentials and region the usual AWS way.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from shards.errors import MissingObject, StoreError
from shards.store import Bytes, Entry, check_key

_PART_BYTES = 16 << 20
_DELETED_TOGETHER = 1000  # as many as S3 takes in a request
_CREDENTIALS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_CREDENTIALS |= {"InvalidToken", "403", "Forbidden", "AllAccessDisabled"}
_MISSING = {"NoSuchKey", "404", "NotFound"}


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
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=5,
        read_timeout=60,
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
        raise StoreError(
            f"{uri}: the S3 endpoint refuses connections or can't be found ({error}). "
            "Check AWS_ENDPOINT_URL and the network"
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(
            f"{uri}: no AWS credentials. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role"
        ) from error
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
    return StoreError(f"{uri}: S3 answers {code}: {message}")


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

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        if start or stop is not None:
            where["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with (
            s3_errors(f"{self.uri}/{key}"),
            closing(s3_client().get_object(**where)["Body"]) as body,
        ):
            data: bytes = body.read()
        if stop is not None and len(data) < stop - start:
            raise StoreError(
                f"{self.uri}/{key}: {len(data)} bytes came of {start}-{stop}: cut short?"
            )
        return data

    def size(self, key: str) -> int:
        with s3_errors(f"{self.uri}/{key}"):
            head = s3_client().head_object(Bucket=self._bucket, Key=self._key(key))
        return int(head["ContentLength"])

    def write(self, key: str, data: Bytes) -> None:
        with s3_errors(f"{self.uri}/{key}"):
            s3_client().upload_fileobj(
                pa.BufferReader(data),
                self._bucket,
                self._key(key),
                Config=_transfer(memoryview(data).nbytes >= _PART_BYTES),
            )

    def list(self, prefix: str = "") -> Iterator[Entry]:
        base = f"{self._prefix}/" if self._prefix else ""
        pages = s3_client().get_paginator("list_objects_v2")
        with s3_errors(f"{self.uri}/{prefix}"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=base + prefix):
                for item in page.get("Contents", ()):
                    key = str(item["Key"])[len(base) :]
                    yield Entry(key, int(item["Size"]), str(item["ETag"]).strip('"'))

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except MissingObject:
            return False
        return True

    def delete(self, key: str) -> None:
        with s3_errors(f"{self.uri}/{key}"):
            s3_client().delete_object(Bucket=self._bucket, Key=self._key(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _DELETED_TOGETHER):
            named = [{"Key": self._key(key)} for key in keys[first : first + _DELETED_TOGETHER]]
            with s3_errors(f"{self.uri}/{keys[first]}"):
                answer = s3_client().delete_objects(
                    Bucket=self._bucket, Delete={"Objects": named, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise StoreError(
                    f"s3://{self._bucket}/{error.get('Key')}: S3 answers {error.get('Code')}: "
                    f"{error.get('Message')}"
                )

    @contextmanager
    def spool(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="stoker-") as folder:
            yield Path(folder, "spool")

    def write_file(self, key: str, path: Path) -> None:
        with s3_errors(f"{self.uri}/{key}"):
            s3_client().upload_file(str(path), self._bucket, self._key(key), Config=_transfer(True))
