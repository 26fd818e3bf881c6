"""S3 that misbehaves: what can be had by trying again is had, and what can't is said in words."""

from collections.abc import Iterator

import pytest

from shards.errors import CutShort, Unavailable
from shards.patience import long_patience, patience
from shards.store import Store, open_store
from tests.faulty_s3 import Fault, FaultyS3, always, faulty_s3, first
from tests.servers import S3Server

# More than botocore itself tries.
TIMES = 4


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("STOKER_S3_PATIENCE_S", "40")
        yield proxy


@pytest.fixture
def store(s3: S3Server, proxy: FaultyS3) -> Store:
    return open_store(s3.bucket("faulty") + "/some/prefix")


# CORRUPT is for readers that verify: a store can't tell.
QUICK = [fault for fault in Fault if fault not in (Fault.STALL, Fault.HANG, Fault.CORRUPT)]


TWO_QUICK_ONES = [
    pytest.param(fault, marks=[] if fault in (Fault.LOST, Fault.SHORT) else [pytest.mark.slow])
    for fault in QUICK
]


@pytest.mark.parametrize("fault", TWO_QUICK_ONES, ids=lambda fault: fault.name)
def test_every_operation_outlasts_a_fault(fault: Fault, store: Store, proxy: FaultyS3) -> None:
    proxy.behave(first(TIMES, fault))
    store.write("a/1", b"0123456789")
    assert store.read("a/1") == b"0123456789"
    assert store.read("a/1", 2, 5) == b"234"
    assert store.size("a/1") == 10
    assert [entry.key for entry in store.list("a/")] == ["a/1"]
    assert not store.exists("a/2")
    store.delete("a/1")
    proxy.behave()
    assert not store.exists("a/1")


@pytest.mark.slow
def test_an_answer_that_never_ends_is_given_up_and_asked_for_again(
    store: Store, proxy: FaultyS3
) -> None:
    store.write("a", b"0123456789")
    proxy.stall_s = 100
    proxy.behave(first(1, Fault.HANG, "GET"))
    assert store.read("a") == b"0123456789"
    assert proxy.met == {Fault.HANG: 1}
    assert proxy.requests["GET"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.LOST], ids=lambda fault: fault.name)
def test_an_object_in_parts_outlasts_a_fault(fault: Fault, store: Store, proxy: FaultyS3) -> None:
    data = bytes(range(256)) * (36 << 12)
    proxy.behave(first(2, fault))
    store.write("large", memoryview(data))
    proxy.behave()
    assert store.read("large") == data


@pytest.mark.slow
def test_an_upload_in_parts_that_fails_for_good_is_aborted(
    store: Store, proxy: FaultyS3, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_S3_PATIENCE_S", "0")
    before = uploads(s3)
    proxy.behave(lambda request: Fault.SLOW_DOWN if "partNumber=2" in request.path else None)
    with pytest.raises(Unavailable, match="faulty/some/prefix/large: S3 answers SlowDown"):
        store.write("large", bytes(36 << 20))
    proxy.behave()
    assert not store.exists("large")
    assert uploads(s3) == before


def uploads(s3: S3Server) -> list[str]:
    """Uploads in parts that were begun; one whose begin was never answered can't be aborted."""
    try:
        found = s3.client().list_multipart_uploads(Bucket="faulty").get("Uploads", [])
    except s3.client().exceptions.NoSuchUpload:  # rclone's way to say that there never was one
        found = []
    return sorted(upload["UploadId"] for upload in found)


@pytest.mark.parametrize("fault", TWO_QUICK_ONES, ids=lambda fault: fault.name)
def test_a_server_that_never_recovers_is_an_error_in_words(
    fault: Fault, store: Store, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", b"0123456789")
    monkeypatch.setenv("STOKER_S3_PATIENCE_S", "1")
    proxy.behave(always(fault))
    for access in (
        lambda: store.read("a"),
        lambda: store.write("b", b"x"),
        lambda: list(store.list()),
    ):
        with pytest.raises(Unavailable, match=r"s3://faulty/some/prefix.*; tried for \d+ s"):
            access()
    proxy.behave()
    assert store.read("a") == b"0123456789"


def test_a_short_object_is_not_asked_for_again(store: Store, proxy: FaultyS3) -> None:
    store.write("short", b"abc")
    proxy.behave()
    for start in (1, 5):
        with pytest.raises(CutShort, match="cut short"):
            store.read("short", start, 9)
    assert proxy.requests["GET"] == 2


def test_a_listing_of_many_pages_outlasts_a_fault_on_each(
    store: Store, proxy: FaultyS3, s3: S3Server
) -> None:
    folder = s3.path(store.uri) / "p"
    folder.mkdir(parents=True)
    for number in range(2500):
        (folder / f"{number:04d}").touch()
    proxy.behave(first(1, Fault.SHORT))
    assert [entry.key for entry in store.list("p/")] == [f"p/{n:04d}" for n in range(2500)]
    assert proxy.met[Fault.SHORT] == 3


def test_a_command_is_sooner_at_its_end_than_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOKER_S3_PATIENCE_S", raising=False)
    assert patience() == 10
    with long_patience():
        with long_patience():
            assert patience() == 120
        assert patience() == 120
    assert patience() == 10
