"""What `--input` means: files, folders, globs, labels; and clear words where it means nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipelines.inputs import find_inputs, format_of, glob_regex, split_label
from shards.errors import StokerError
from tests.servers import S3Server

NAMES = (
    "a.jsonl",
    "b.parquet",
    "deep/c.txt",
    "deep/er/d.jsonl.gz",
    "deep/er/e.jsonl.zst",
    "_SUCCESS",
    ".hidden.txt",
    "_temporary/f.txt",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path


@pytest.fixture
def bucket(s3: S3Server) -> str:
    uri = s3.bucket("inputs-test")
    for name in NAMES:
        s3.client().put_object(Bucket="inputs-test", Key=f"corpus/{name}", Body=b"x" * len(name))
    s3.client().put_object(Bucket="inputs-test", Key="corpus-of-another.txt", Body=b"x")
    return f"{uri}/corpus"


def names(root: str | Path, *given: str) -> list[str]:
    return [found.uri.removeprefix(f"{root}/") for found in find_inputs(given)]


VISIBLE = ["a.jsonl", "b.parquet", "deep/c.txt", "deep/er/d.jsonl.gz", "deep/er/e.jsonl.zst"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", VISIBLE),
        ("/", VISIBLE),
        ("/a.jsonl", ["a.jsonl"]),
        ("/*.parquet", ["b.parquet"]),
        ("/*/*", ["deep/c.txt"]),
        ("/**/*.jsonl*", ["a.jsonl", "deep/er/d.jsonl.gz", "deep/er/e.jsonl.zst"]),
        ("/**", VISIBLE),
        ("/deep/er/[de].jsonl.gz", ["deep/er/d.jsonl.gz"]),
        ("/deep/er/[!d].*", ["deep/er/e.jsonl.zst"]),
        ("/?.jsonl", ["a.jsonl"]),
        ("/_temporary/f.txt", ["_temporary/f.txt"]),
    ],
)
@pytest.mark.parametrize("where", ["corpus", "bucket"])
def test_a_name_means_the_same_files_on_disk_and_on_s3(
    where: str, pattern: str, expected: list[str], request: pytest.FixtureRequest
) -> None:
    root = str(request.getfixturevalue(where))
    assert names(root, root + pattern) == expected


def test_every_file_comes_once_in_order_with_its_size(corpus: Path) -> None:
    found = find_inputs([f"{corpus}/deep", f"{corpus}/*.jsonl", str(corpus), f"{corpus}/a.jsonl"])
    assert [item.uri.removeprefix(f"{corpus}/") for item in found] == VISIBLE
    assert all(item.size == len(item.uri.removeprefix(f"{corpus}/")) for item in found)


def test_a_relative_path_and_a_file_uri_are_the_same_file(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    assert find_inputs(["a.jsonl"]) == find_inputs([f"file://{corpus}/a.jsonl"])


def test_a_rewrite_changes_the_etag(corpus: Path) -> None:
    path = corpus / "a.jsonl"
    [before] = find_inputs([str(path)])
    os.utime(path, ns=(5, 5))
    [after] = find_inputs([str(path)])
    assert before.etag != after.etag


def test_labels_name_sources(corpus: Path) -> None:
    found = find_inputs([f"web={corpus}/a.jsonl", f"{corpus}/b.parquet"])
    assert [(item.source, Path(item.uri).name) for item in found] == [
        ("default", "b.parquet"),
        ("web", "a.jsonl"),
    ]


def test_an_equals_sign_in_a_path_is_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "date=2024").mkdir()
    (tmp_path / "date=2024" / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert split_label("date=2024") == ("default", "date=2024")
    assert split_label("date=2024/*.txt") == ("default", "date=2024/*.txt")
    assert split_label("s3://b/date=2024/x") == ("default", "s3://b/date=2024/x")
    assert split_label("web=date=2024/a.txt") == ("web", "date=2024/a.txt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.txt", "--input {root}/nowhere.txt: no such file or folder"),
        ("*.csv", "--input {root}/*.csv: the glob matches no file"),
        ("empty", "--input {root}/empty: the folder holds no file"),
    ],
)
def test_an_input_that_means_nothing_says_what_was_looked_for(
    given: str, message: str, corpus: Path
) -> None:
    (corpus / "empty").mkdir()
    with pytest.raises(StokerError, match=re.escape(message.format(root=corpus))):
        find_inputs([f"{corpus}/{given}"])


@pytest.mark.parametrize(
    ("given", "message"),
    [("nothing", "no object has this key"), ("*.csv", "the glob matches no file")],
)
def test_an_s3_input_that_means_nothing_says_so(given: str, message: str, bucket: str) -> None:
    with pytest.raises(StokerError, match=re.escape(f"--input {bucket}/{given}: {message}")):
        find_inputs([f"{bucket}/{given}"])


def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    with pytest.raises(StokerError, match="no-such-bucket"):
        find_inputs(["s3://no-such-bucket/x"])


def test_an_unknown_extension_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(StokerError, match=r"a\.csv: known extensions are \.parquet") as caught:
        find_inputs([str(tmp_path)])
    assert "--format" in str(caught.value)
    assert len(find_inputs([str(tmp_path)], "text")) == 2


def test_a_name_that_is_no_text_is_an_error_that_shows_it(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.txt")).touch()
    with pytest.raises(StokerError, match=r"a\\xff\.txt: its name isn't UTF-8: rename it"):
        find_inputs([str(tmp_path)])


def test_a_file_under_two_labels_is_an_error(corpus: Path) -> None:
    with pytest.raises(StokerError, match="under two labels"):
        find_inputs([f"a={corpus}/a.jsonl", f"b={corpus}/*.jsonl"])


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("x.PARQUET", "auto", ("parquet", "")),
        ("x.pq", "auto", ("parquet", "")),
        ("x.ndjson.zst", "auto", ("jsonl", "zstd")),
        ("x.txt.gz", "auto", ("text", "gzip")),
        ("x.parquet.gz", "auto", ("", "")),
        ("x.gz", "auto", ("", "")),
        ("x.log", "auto", ("", "")),
        ("x.log.gz", "jsonl", ("jsonl", "gzip")),
        ("x", "parquet", ("parquet", "")),
    ],
)
def test_the_extension_tells_the_format(name: str, format: str, expected: tuple[str, str]) -> None:
    assert format_of(name, format) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a*b", "a/b", False),
        ("**/b", "b", True),
        ("**/b", "x/y/b", True),
        ("a[*]", "a*", True),
        ("a[!*]", "a*", False),
        ("a[!*]", "a/", False),
        ("a[]]", "a]", True),
        ("a[^]", "a^", True),
        ("a[b", "a[b", True),
        ("a+(b)", "a+(b)", True),
    ],
)
def test_globs(pattern: str, name: str, matches: bool) -> None:
    assert bool(glob_regex(pattern).fullmatch(name)) == matches
