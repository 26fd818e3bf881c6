"""The whole job from S3 to S3 while S3 misbehaves: the same bytes, or an end in words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.job import run
from pipelines.options import Options
from pipelines.summary import Summary
from shards.errors import StokerError
from shards.lease import LEASE
from shards.store import open_store
from shards.verify import verify
from tests.faulty_s3 import Fault, FaultyS3, Request, Rule, faulty_s3, share_of
from tests.pipelines.interrupted import content
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer
from tests.servers import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

PATIENCE_S = 5


@pytest.fixture(scope="module")
def proxy(s3: S3Server, request: pytest.FixtureRequest) -> Iterator[FaultyS3]:
    """Between S3 and everybody: this process and the workers of a Ray that is started here."""
    with faulty_s3(s3.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        patch.setenv("STOKER_S3_PATIENCE_S", str(PATIENCE_S))
        request.getfixturevalue("local_ray")
        yield proxy


@dataclass(frozen=True)
class Corpus:
    """A job over a bucket, and what it writes when nothing goes wrong."""

    bucket: str
    tokenizer: str
    whole: dict[str, bytes]

    def run(self, name: str) -> Summary:
        return run(
            Options(
                inputs=(f"lines={self.bucket}/in/*.jsonl", f"table={self.bucket}/in/*.parquet"),
                output=f"{self.bucket}/{name}",
                tokenizer=self.tokenizer,
                end_token="<|end|>",
                unit_bytes=20_000,
                shard_bytes=20_000,
            )
        )

    def assert_whole(self, name: str) -> None:
        output = f"{self.bucket}/{name}"
        assert content(output) == self.whole
        verify(output)


@pytest.fixture(scope="module")
def corpus(proxy: FaultyS3, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    bucket = s3.bucket("network-faults")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    folder = s3.path(f"{bucket}/in")
    folder.mkdir()
    texts = [f"document {i}: {'word ' * (i * 7 % 40)}\n" for i in range(1200)]
    for part in range(4):
        lines = [json.dumps({"text": text}) for text in texts[part::8]]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    pq.write_table(
        pa.table({"text": [text for part in range(4, 8) for text in texts[part::8]]}),
        folder / "rest.parquet",
        row_group_size=100,
        compression="none",
    )
    corpus = Corpus(bucket, str(path), {})
    assert corpus.run("whole").units > 8
    return Corpus(bucket, str(path), content(f"{bucket}/whole"))


RULES = {
    "throttled": share_of(0.15, Fault.SLOW_DOWN),
    "reset": share_of(0.3, Fault.RESET, Fault.LOST),
    "cut short": share_of(0.3, Fault.SHORT),
    "all at once": share_of(0.3, Fault.SLOW_DOWN, Fault.RESET, Fault.LOST, Fault.SHORT),
}


@pytest.mark.parametrize("name", RULES)
def test_a_job_through_an_s3_that_fails_now_and_then_writes_the_same_bytes(
    name: str, corpus: Corpus, proxy: FaultyS3
) -> None:
    proxy.behave(RULES[name])
    corpus.run(name.replace(" ", "-"))
    print(f"{name}: {dict(proxy.requests)}, {dict(proxy.met)}")
    assert sum(proxy.met.values()) >= 10
    proxy.behave()
    corpus.assert_whole(name.replace(" ", "-"))


def test_a_job_outlasts_a_stall_of_30_seconds(corpus: Corpus, proxy: FaultyS3) -> None:
    since: list[float] = []

    def rule(request: Request) -> Fault | None:
        if not since and request.method == "PUT" and "/shards/" in request.path:
            since.append(time.monotonic())
        return Fault.STALL if since and time.monotonic() < since[0] + 30 else None

    proxy.behave(rule)
    corpus.run("stalled")
    print(f"stalled: {dict(proxy.requests)}, {dict(proxy.met)}")
    assert proxy.met[Fault.STALL] >= 2
    proxy.behave()
    corpus.assert_whole("stalled")


def from_put_on(number: int, key: str, fault: Fault) -> Rule:
    """All is well until so many keys of this kind were put; then nothing ever is."""
    puts = 0

    def rule(request: Request) -> Fault | None:
        nonlocal puts
        puts += request.method == "PUT" and key in request.path
        return fault if puts >= number else None

    return rule


@pytest.mark.parametrize(
    ("number", "key", "fault"),
    [
        (6, "/shards/", Fault.SLOW_DOWN),
        (6, "/shards/", Fault.RESET),
        (1, "/cells-", Fault.RESET),
        (1, "/manifest.json", Fault.RESET),
    ],
    ids=["shards throttled", "shards reset", "tables reset", "manifest reset"],
)
def test_where_s3_never_recovers_the_job_ends_in_words_and_goes_on_later(
    number: int, key: str, fault: Fault, corpus: Corpus, proxy: FaultyS3
) -> None:
    name = f"dead-{number}-{key.strip('/-').replace('.', '-')}-{fault.name.lower()[:4]}"
    store = open_store(f"{corpus.bucket}/{name}")
    proxy.behave(from_put_on(number, key, fault))
    started = time.monotonic()
    with pytest.raises(StokerError) as caught:
        corpus.run(name)
    print(f"{name}: {dict(proxy.requests)}, {time.monotonic() - started:.1f} s: {caught.value}")
    assert str(caught.value).startswith(f"{corpus.bucket}/")
    assert "tried for" in str(caught.value)
    assert "\n" not in str(caught.value)
    proxy.behave()
    assert not store.exists("manifest.json")
    again = corpus.run(name)
    assert again.skipped > 0
    assert (again.skipped == again.units) == (key != "/shards/")
    assert not store.exists(LEASE)
    corpus.assert_whole(name)


def test_an_input_that_is_replaced_between_plan_and_read_is_an_error(
    corpus: Corpus, proxy: FaultyS3, s3: S3Server
) -> None:
    """The object is written anew when it is first read in a task, long after it was listed."""
    bucket = corpus.bucket
    other = s3.path(f"{bucket}/changing")
    other.mkdir()
    for part in range(4):
        source = s3.path(f"{bucket}/in/{part}.jsonl")
        (other / source.name).write_bytes(source.read_bytes())
    victim = other / "3.jsonl"
    content = victim.read_bytes()

    def rule(request: Request) -> Fault | None:
        if request.method == "PUT" and "/shards/" in request.path:
            victim.write_bytes(content.replace(b"document", b"DOCUMENT"))
        return None

    proxy.behave(rule)
    with pytest.raises(StokerError, match=r"changing/3\.jsonl changed since the plan was made"):
        run(
            Options(
                inputs=(f"{bucket}/changing/",),
                output=f"{bucket}/changed",
                tokenizer=corpus.tokenizer,
                end_token="<|end|>",
                unit_bytes=20_000,
            )
        )
    assert not open_store(f"{bucket}/changed").exists("manifest.json")


def test_a_finished_job_started_again_reads_a_few_objects_and_writes_none(
    corpus: Corpus, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ray() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipelines.job.ray_cluster", no_ray)
    proxy.behave()
    again = corpus.run("whole")
    assert again.nothing_to_do
    assert set(proxy.requests) <= {"GET", "HEAD"}
    assert proxy.requests.total() < 20
