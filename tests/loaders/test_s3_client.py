"""Credentials that expire and buckets elsewhere: asked again in the right way, not given up."""

from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from loaders import TokenDataset
from shards.errors import StoreError
from tests.faulty_s3 import Answer, FaultyS3, faulty_s3
from tests.loaders.support import Modes, first_tokens, token_dataset, token_loader
from tests.servers import ACCESS_KEY, SECRET_KEY, S3Server

SEQ_LEN = 64
STREAMING: dict[str, Any] = {**Modes["streaming"], "prefetch_factor": 2}


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, [("Content-Type", "application/xml"), *headers], body.encode()


def dataset_on(s3: S3Server) -> TokenDataset:
    return token_dataset(s3.bucket("loaders-client") + "/tokens", 30_000, seq_len=SEQ_LEN)


def write_profile(file: Path, token: str) -> None:
    file.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        f"aws_session_token = {token}\n"
    )


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that holds the only credentials."""
    file = tmp_path / "credentials"
    write_profile(file, "first")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr("loaders.source_s3._renewed", 0.0)
    return file


def refuse_token(token: str) -> Any:
    def refuse(headers: Message) -> Answer | None:
        if headers["X-Amz-Security-Token"] == token:
            return error(400, "ExpiredToken", "The provided token has expired.")
        return None

    return refuse


def test_credentials_that_expire_are_looked_up_again(
    s3: S3Server, proxy: FaultyS3, profile: Path
) -> None:
    loader = token_loader(dataset_on(s3), 8, True, timeout=60, **STREAMING)
    expected = [first_tokens(batch) for batch in loader]
    loader.set_epoch(0)
    iterator = iter(loader)
    found = [first_tokens(next(iterator)) for _ in range(10)]
    # As `aws sso login` and its like do: another token in the file, the old one is refused.
    write_profile(profile, "second")
    proxy.refuse = refuse_token("first")
    found += [first_tokens(batch) for batch in iterator]
    assert found == expected
    assert loader.stats()["retries"] > 0


def test_credentials_that_were_never_accepted_are_an_error_at_once(
    s3: S3Server, proxy: FaultyS3, profile: Path
) -> None:
    uri = dataset_on(s3).uri
    proxy.refuse = refuse_token("first")
    proxy.behave()
    with pytest.raises(StoreError, match=r"access denied\. .*TOKEN_EXPIRED"):
        TokenDataset(uri, SEQ_LEN)
    # The four attempts that the CRT makes by itself, and those of a hedge.
    assert proxy.requests["GET"] <= 8


def test_a_bucket_in_another_region_is_asked_there(s3: S3Server, proxy: FaultyS3) -> None:
    def refuse(headers: Message) -> Answer | None:
        if "/us-east-1/s3/aws4_request" in headers["Authorization"]:
            where = ("x-amz-bucket-region", "eu-west-1")
            return error(301, "PermanentRedirect", "Please use the region's endpoint", where)
        return None

    dataset = dataset_on(s3)
    expected = [first_tokens(batch) for batch in token_loader(dataset, 8, True)]
    dataset = TokenDataset(dataset.uri, SEQ_LEN)
    proxy.refuse = refuse
    loader = token_loader(dataset, 8, True, timeout=60)
    assert [first_tokens(batch) for batch in loader] == expected
    assert 1 <= loader.stats()["retries"] <= 16
