"""Disk and S3 behave alike, and what goes wrong is said in words."""

import pickle
import socket
import subprocess
import sys
import time

import pytest

from shards.errors import MissingObject, StoreError
from shards.store import LocalStore, open_store


@pytest.fixture(params=["disk", "s3"])
def uri(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "store")
    return request.getfixturevalue("s3").bucket("stores") + "/some/prefix"


def test_what_is_written_is_read_back_whole_and_by_range(uri):
    store = pickle.loads(pickle.dumps(open_store(uri)))
    store.write("a/b.bin", bytes(range(256)))
    store.write("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", 2, 5) == b"234"
    assert store.read("a/b.bin", 7) == b"789"
    assert store.read("a/b.bin", 3, 3) == b""
    assert store.size("a/b.bin") == 10


def test_a_large_object_arrives_in_parts_and_whole(uri):
    data = bytes(range(256)) * (36 << 12)
    store = open_store(uri)
    store.write("large", memoryview(data))
    assert store.read("large") == data


def test_a_listing_is_sorted_and_relative(uri):
    store = open_store(uri)
    for key in ("x/2", "x/10", "x/1/deep", "y"):
        store.write(key, key.encode())
    assert [entry.key for entry in store.list("x/")] == ["x/1/deep", "x/10", "x/2"]
    assert [entry.key for entry in store.list("x/1")] == ["x/1/deep", "x/10"]
    assert [(entry.key, entry.size) for entry in store.list()][-1] == ("y", 1)
    assert list(store.list("nothing/")) == []


def test_the_etag_changes_with_the_content(uri):
    store = open_store(uri)
    store.write("a", b"one")
    (before,) = store.list("a")
    store.write("a", b"two")
    (after,) = store.list("a")
    assert before.etag != after.etag


def test_a_missing_object_is_named(uri):
    store = open_store(uri)
    store.write("there", b"x")
    assert store.exists("there")
    assert not store.exists("not/there")
    for access in (store.read, store.size):
        with pytest.raises(MissingObject, match="not/there"):
            access("not/there")
    store.delete("not/there")
    store.delete("there")
    assert not store.exists("there")


def test_a_range_beyond_the_end_is_an_error(uri):
    store = open_store(uri)
    store.write("short", b"abc")
    with pytest.raises(StoreError, match="cut short"):
        store.read("short", 1, 9)


@pytest.mark.parametrize("key", ["/etc/passwd", "../up", "a/../../up", "a//b", ".", "", "a\0b"])
def test_no_key_leaves_the_store(uri, key):
    store = open_store(uri)
    for access in (store.read, store.size, lambda k: store.write(k, b"x"), store.delete):
        with pytest.raises(StoreError, match="is no key"):
            access(key)


def test_the_torso_of_a_killed_writer_is_never_listed(tmp_path):
    (tmp_path / ".shard.arrow.123.tmp").write_bytes(b"half")
    assert list(LocalStore(str(tmp_path)).list()) == []


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path):
    """Files may grow to 10 kB here, as if the disk were full then."""
    store = LocalStore(str(tmp_path))
    store.write("a", b"before")
    script = (
        "import resource, sys; from shards.store import LocalStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "LocalStore(sys.argv[1]).write('a', bytes(1 << 20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert f"StoreError: {tmp_path}/a: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert store.read("a") == b"before"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match=str(tmp_path / "file")):
        open_store(str(tmp_path / "file")).write("key", b"x")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3://", "s3://UPPER/x"])
def test_a_uri_that_is_not_supported_is_refused(uri):
    with pytest.raises(StoreError, match=r"not supported|no bucket name"):
        open_store(uri)


def test_wrong_credentials_are_said_to_be_wrong(s3, monkeypatch):
    store = open_store(s3.bucket("private") + "/x")
    store.write("a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-key")
    for access in (lambda: store.read("a"), lambda: list(store.list()), lambda: store.size("a")):
        with pytest.raises(StoreError, match="refuses these credentials") as caught:
            access()
        assert "not-the-key" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/x/a: no such bucket"):
        open_store("s3://no-such-bucket/x").read("a")


def test_an_endpoint_that_refuses_is_an_error_within_seconds(s3, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        port = closed_again.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"endpoint refuses connections.*AWS_ENDPOINT_URL"):
        open_store("s3://bucket/x").read("a")
    assert time.monotonic() - started < 30
