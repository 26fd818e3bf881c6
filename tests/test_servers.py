"""What the tests' own S3 server does, since every promise about S3 is tested through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.servers import S3Server


def test_it_keeps_and_returns_objects_whole_ranged_and_in_parts(s3: S3Server) -> None:
    bucket = s3.bucket("servers-objects").removeprefix("s3://")
    client = s3.client()
    client.put_object(Bucket=bucket, Key="a/b", Body=b"0123456789")
    assert client.get_object(Bucket=bucket, Key="a/b", Range="bytes=3-5")["Body"].read() == b"345"
    assert client.head_object(Bucket=bucket, Key="a/b")["ContentLength"] == 10

    upload = client.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    part = {"Bucket": bucket, "Key": "big", "UploadId": upload}
    bodies = {1: b"x" * (5 << 20), 2: b"y"}
    parts = [
        {"PartNumber": n, "ETag": client.upload_part(**part, PartNumber=n, Body=body)["ETag"]}
        for n, body in bodies.items()
    ]
    client.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})
    assert client.get_object(Bucket=bucket, Key="big")["Body"].read() == bodies[1] + bodies[2]

    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["a/b", "big"]
    client.delete_object(Bucket=bucket, Key="a/b")
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=bucket, Key="a/b")


def test_a_file_changed_on_disk_is_served_changed_with_another_etag(s3: S3Server) -> None:
    uri = s3.bucket("servers-damage") + "/object"
    client = s3.client()
    before = client.put_object(Bucket="servers-damage", Key="object", Body=b"sound")["ETag"]
    s3.path(uri).write_bytes(b"sOund")
    after = client.get_object(Bucket="servers-damage", Key="object")
    assert after["Body"].read() == b"sOund"
    assert after["ETag"] != before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_it_refuses_wrong_credentials(s3: S3Server, changes: dict[str, str], code: str) -> None:
    s3.bucket("servers-refuses")
    with pytest.raises(ClientError) as caught:
        s3.client(**changes).list_objects_v2(Bucket="servers-refuses")
    assert caught.value.response["Error"]["Code"] == code


def test_the_environment_names_it_and_no_other_account(s3: S3Server) -> None:
    assert {name: os.environ[name] for name in s3.env} == s3.env
    assert "AWS_PROFILE" not in os.environ
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_shared_is_a_folder_where_it_is_there(shared: Path) -> None:
    assert shared.is_dir()
