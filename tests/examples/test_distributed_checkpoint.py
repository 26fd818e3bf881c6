"""torch.distributed.checkpoint with the loader's state, on disk and on S3, for other ranks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.support import expected, given, rows, run, together
from tests.faulty_s3 import faulty_s3
from tests.servers import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(params=["disk", "s3"])
def checkpoints(
    request: pytest.FixtureRequest, output: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A folder, or a prefix on S3."""
    if request.param == "disk":
        yield str(output / "checkpoints")
        return
    server: S3Server = request.getfixturevalue("s3")
    with faulty_s3(server.endpoint) as proxy:
        proxy.amend = named_as_s3_does
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield server.bucket("examples-dcp") + "/run"


def named_as_s3_does(body: bytes) -> bytes:
    """rclone's answer to CreateMultipartUpload has another name, which the AWS CRT doesn't know."""
    return re.sub(rb"InitiateMultipartUpload\b", b"InitiateMultipartUploadResult", body)


def test_what_two_ranks_saved_is_continued_by_one(
    data: str, output: Path, checkpoints: str
) -> None:
    arguments = (
        *("--data", data, "--output", output, "--batch-size", 8),
        *("--checkpoints", checkpoints, "--steps", 15, "--save-every", 8),
    )
    run("distributed_checkpoint", *arguments, ranks=2)
    first, second = given(output), given(output, rank=1)
    run("distributed_checkpoint", *arguments, "--resume-at", 8, ranks=1)
    alone = given(output)[15:]
    assert together(first, second) == expected(data, 8, 15)
    assert rows(alone) == together(first, second)[8:]
    means = [(left.loss + right.loss) / 2 for left, right in zip(first, second, strict=True)]
    assert [batch.loss for batch in alone] == pytest.approx(means[8:], abs=1e-4)
