"""A disk that fills up or becomes read-only under a running job: an end in words, and on later."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.job import run
from pipelines.options import Options
from pipelines.summary import Summary
from shards.errors import StokerError, StoreError
from shards.verify import verify
from tests.pipelines.interrupted import content, receipts
from tests.pipelines.processes import wait_until
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small disk"),
    pytest.mark.usefixtures("local_ray"),
]


class Disk:
    """A real file system of its own, at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=64k", "stoker-test", str(path))

    def resize(self, size: str) -> None:
        self._mount("-o", f"remount,size={size}", str(self.path))

    def read_only(self) -> bool:
        """Whether it is read-only now; it refuses while a file is open for writing."""
        command = ["mount", "-o", "remount,ro", str(self.path)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def writable(self) -> None:
        self._mount("-o", "remount,rw", str(self.path))

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.path)], check=True)


@dataclass(frozen=True)
class Corpus:
    """A job of 24 units of some tenths of a second, and what it writes on a disk without faults."""

    input: Path
    tokenizer: Path
    whole: dict[str, bytes]

    def run(self, output: Path) -> Summary:
        return run(
            Options(
                inputs=(str(self.input),),
                output=str(output),
                tokenizer=str(self.tokenizer),
                end_token="<|end|>",
                engine="tokenizers",
                unit_bytes=-(-self.input.stat().st_size // 24),
            )
        )


@pytest.fixture(scope="module")
def corpus(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("disk-faults")
    tokenizer, lines = folder / "tokenizer.json", folder / "in.jsonl"
    tokenizer.write_text(blob(pair_tokenizer(merged="Ġdocumentwr0123")))
    text = "some words and numbers 0123 of a document " * 200
    lines.write_text("\n".join(json.dumps({"text": f"{i} {text}"}) for i in range(480)))
    Corpus(lines, tokenizer, {}).run(folder / "whole")
    return Corpus(lines, tokenizer, content(folder / "whole"))


def assert_nothing_torn(output: Path, corpus: Corpus) -> None:
    """What stands under a final name is what an undisturbed run writes there."""
    assert not (output / "manifest.json").exists()
    files = [file for file in output.rglob("*") if file.is_file()]
    assert [file for file in files if file.name.endswith(".tmp")] == []
    shards = [file for file in files if "shards" in file.parts]
    for shard in shards:
        assert shard.read_bytes() == corpus.whole[shard.relative_to(output).as_posix()]


def test_a_full_disk_ends_the_job_in_words_and_with_more_room_it_goes_on(
    disk: Disk, corpus: Corpus
) -> None:
    output = disk.path / "out"
    size = sum(map(len, corpus.whole.values()))
    disk.resize(str(size // 2))
    with pytest.raises(StokerError) as caught:
        corpus.run(output)
    message = str(caught.value)
    print(message)
    assert message.startswith(f"{output}/")
    assert "No space left on device" in message
    assert "\n" not in message
    done = receipts(output)
    assert done > 0
    assert_nothing_torn(output, corpus)
    disk.resize(str(4 * size))
    assert corpus.run(output).skipped == done
    assert content(output) == corpus.whole
    verify(str(output))


def test_a_disk_that_was_full_before_is_named_at_once(
    disk: Disk, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="No space"):
        (disk.path / "ballast").write_bytes(bytes(1 << 20))

    def no_ray() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipelines.job.ray_cluster", no_ray)
    with pytest.raises(StoreError, match=f"^{disk.path}/out/.*No space left on device"):
        corpus.run(disk.path / "out")


def test_a_disk_that_becomes_read_only_ends_the_job_in_words_and_mended_it_goes_on(
    disk: Disk, corpus: Corpus
) -> None:
    output = disk.path / "out"
    disk.resize("64m")

    def spoil() -> None:
        wait_until(lambda: receipts(output) >= 3, 120, "the third receipt")
        wait_until(disk.read_only, 60, "a moment without an open file")

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    with pytest.raises(StokerError) as caught:
        corpus.run(output)
    spoiler.join()
    message = str(caught.value)
    print(message)
    assert message.startswith(f"{output}/")
    assert "Read-only file system" in message
    assert "\n" not in message
    done = receipts(output)
    assert 3 <= done < 24
    assert_nothing_torn(output, corpus)
    disk.writable()
    assert corpus.run(output).skipped == done
    assert content(output) == corpus.whole
    verify(str(output))
