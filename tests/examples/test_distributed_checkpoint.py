"""torch.distributed.checkpoint with the loader's state, on disk and on S3, for other ranks."""

from pathlib import Path

import pytest

from tests.examples.support import expected, given, rows, run
from tests.servers import S3Server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_what_two_ranks_saved_is_continued_by_one(
    data: str, output: Path, place: str, request: pytest.FixtureRequest
) -> None:
    checkpoints = str(output / "checkpoints")
    if place == "s3":
        server: S3Server = request.getfixturevalue("s3")
        checkpoints = server.bucket("examples-dcp") + "/run"
    where = ("--data", data, "--output", output, "--checkpoints", checkpoints)
    arguments = (*where, "--batch-size", 8, "--steps", 15, "--save-every", 8)
    run("distributed_checkpoint", *arguments, ranks=2)
    first = [given(output, rank) for rank in range(2)]
    run("distributed_checkpoint", *arguments, "--resume-at", 8, ranks=1)
    alone = given(output)[15:]
    pairs = zip(rows(first[0]), rows(first[1]), strict=True)
    together = [tuple(row for both in zip(*pair, strict=True) for row in both) for pair in pairs]
    assert together == expected(data, 8, 15)
    assert rows(alone) == together[8:]
    means = [(left.loss + right.loss) / 2 for left, right in zip(*first, strict=True)]
    assert [batch.loss for batch in alone] == pytest.approx(means[8:], abs=1e-4)
