"""`python -m loaders pack` writes a plan; the loader finds it, checks it, or says what to type."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from loaders import TokenDataset
from loaders.__main__ import main
from loaders.pack import make_packs
from shards.errors import DatasetError
from shards.format import xxh3
from shards.writer import to_ipc
from tests.datasets import write_dataset
from tests.loaders.documents import natural_lengths, write_documents
from tests.loaders.support import token_loader
from tests.servers import S3Server

SEQ_LEN = 32
LENGTHS = [natural_lengths(200), natural_lengths(300, seed=1)]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    uri = str(tmp_path / "tokens")
    write_documents(uri, LENGTHS)
    return uri


def missing(make: Any) -> list[str]:
    """The words of the command that an error says."""
    with pytest.raises(DatasetError, match=r"there is no .*/\w+-\w+\.arrow") as caught:
        make()
    return shlex.split(str(caught.value).partition("python -m loaders ")[2])


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_without_a_plan_the_error_says_the_command_that_makes_it(
    uri: str, tmp_path: Path, packing: Any, elsewhere: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_dir = str(tmp_path / "plans") if elsewhere else None

    def make() -> TokenDataset:
        return TokenDataset(uri, SEQ_LEN, packing=packing, pack_dir=pack_dir)

    command = missing(make)
    assert main(command) == 0
    said = capsys.readouterr().out
    dataset = make()
    assert f"{len(dataset):,} rows of {SEQ_LEN}, {dataset.padding_share:.2%} padding" in said
    assert f'packing="{packing}")' in said.replace("'", '"')
    (plan,) = Path(pack_dir or f"{uri}/packs").iterdir()
    assert f"{plan}: " in said
    assert sum(len(batch["labels"]) for batch in token_loader(dataset, 8)) == len(dataset)


def test_a_plan_is_found_on_s3(s3: S3Server) -> None:
    uri = s3.bucket("loaders-plans") + "/tokens"
    write_documents(uri, LENGTHS)
    assert main(missing(lambda: TokenDataset(uri, SEQ_LEN, packing="best_fit"))) == 0
    assert len(TokenDataset(uri, SEQ_LEN, packing="best_fit"))


def test_each_split_source_and_length_has_a_plan_of_its_own(tmp_path: Path) -> None:
    uri = str(tmp_path / "tokens")
    shards = [[np.arange(n, dtype=np.uint32) for n in natural_lengths(50, seed=k)] for k in (0, 1)]
    write_dataset(uri, shards, sources=["web", "code"], splits=["train", "validation"])
    which: dict[str, Any] = {"split": "validation", "source": "code"}
    command = missing(lambda: TokenDataset(uri, 16, packing="best_fit", **which))
    assert main(command) == 0
    dataset = TokenDataset(uri, 16, packing="best_fit", **which)
    assert dataset.stream.tokens == sum(map(len, shards[1]))
    missing(lambda: TokenDataset(uri, 16, packing="best_fit"))
    missing(lambda: TokenDataset(uri, 32, packing="best_fit", **which))


def test_the_same_documents_always_make_the_same_plan(uri: str, tmp_path: Path) -> None:
    first, second = (
        Path(make_packs(uri, SEQ_LEN, pack_dir=str(tmp_path / name)).where) for name in "ab"
    )
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_a_plan_of_data_that_was_changed_is_not_found(uri: str) -> None:
    make_packs(uri, SEQ_LEN)
    write_documents(uri, [natural_lengths(90, seed=7)])
    missing(lambda: TokenDataset(uri, SEQ_LEN, packing="best_fit"))


def rewritten(path: Path, change: Any) -> None:
    """The plan's file with other contents, whose checksum is right."""
    batch = pa.ipc.open_file(str(path)).get_batch(0)
    about = json.loads(batch.schema.metadata[b"stoker-packs"])
    token = batch.column("token").to_numpy().copy()
    token = change(about, token)
    about["xxh3"] = f"{xxh3(token):016x}"
    made = pa.record_batch({"token": pa.array(token)})
    path.write_bytes(to_ipc(made.replace_schema_metadata({"stoker-packs": json.dumps(about)})))


def put(place: int, by: int) -> Any:
    def change(about: dict[str, Any], token: Any) -> Any:
        token[place] += by
        return token

    return change


def say(**facts: Any) -> Any:
    def change(about: dict[str, Any], token: Any) -> Any:
        about.update(facts)
        return token

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(0, 1), "don't make up"),
        (put(-1, 1), "don't make up"),
        (put(1, 10_000), "don't make up"),
        (put(2, -10_000), "don't make up"),
        (say(rows=0), "0 rows in a pack"),
        (say(rows=1 << 40), "rows in a pack"),
        (say(rows="7"), "'7' rows in a pack"),
        (say(last_rows=0), "don't make up"),
        (say(seq_len=64), "it is of seq_len 64, not 32"),
        (say(dataset="0" * 16), "it is of dataset '0000"),
        (lambda about, token: token[:1], "don't make up"),
        (lambda about, token: token.astype(np.int32), "token is int32"),
        (lambda about, token: about.pop("rows") and token, "rows"),
    ],
)
def test_a_plan_that_cannot_be_one_is_refused(uri: str, change: Any, words: str) -> None:
    where = make_packs(uri, SEQ_LEN, rows=16).where
    rewritten(Path(where), change)
    with pytest.raises(DatasetError, match=words) as caught:
        TokenDataset(uri, SEQ_LEN, packing="best_fit")
    assert "is no plan of this dataset's packs" in str(caught.value)
    assert f"python -m loaders pack {uri} --seq-len {SEQ_LEN}" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_plan_is_refused(uri: str, cut: int) -> None:
    path = Path(make_packs(uri, SEQ_LEN).where)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(DatasetError, match="is no plan of this dataset's packs"):
        TokenDataset(uri, SEQ_LEN, packing="best_fit")
    at = data.index(np.int64(sum(map(sum, LENGTHS))).tobytes())
    path.write_bytes(data[: at - 8] + b"\1" + data[at - 7 :])
    with pytest.raises(DatasetError, match="its checksum differs"):
        TokenDataset(uri, SEQ_LEN, packing="best_fit")


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_plan_that_does_not_fit_the_documents_is_refused_when_it_is_used(
    uri: str, packing: Any, by: int
) -> None:
    where = make_packs(uri, SEQ_LEN, packing=packing, rows=16).where
    rewritten(Path(where), put(2, by))
    dataset = TokenDataset(uri, SEQ_LEN, packing=packing)
    with pytest.raises(DatasetError, match=r"the plan says that pack \d+ has"):
        list(token_loader(dataset, 8))


def test_what_means_nothing_is_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="pack_dir= is for rows that need a plan"):
        TokenDataset(uri, SEQ_LEN, pack_dir="plans")
    with pytest.raises(ValueError, match="packing='tight': there are 'concat', 'best_fit', 'none'"):
        TokenDataset(uri, SEQ_LEN, packing="tight")  # type: ignore[arg-type]
    assert main(["pack", uri, "--seq-len", "0"]) == 1
    assert "--seq-len must be at least 1" in capsys.readouterr().err
    assert main(["pack", uri, "--seq-len", "10000000"]) == 1
    assert "has only" in capsys.readouterr().err
    assert main(["pack", f"{uri}/nowhere", "--seq-len", "32"]) == 1
    assert "holds no token dataset" in capsys.readouterr().err
