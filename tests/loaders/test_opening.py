"""Manifest, index and checksums come as blocks do: few rounds, no hang, no wrong byte."""

import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from loaders import TokenDataset
from loaders.attempts import Patience
from loaders.pack import make_packs
from shards.errors import DatasetError, StoreError
from tests.faulty_s3 import Fault, FaultyS3, Rule, Served, always, faulty_s3, first, of_shards
from tests.loaders.support import first_tokens, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
TOKENS = 60_000
HASTY = Patience(deadline=1.0, total=60.0, first_pause=0.02, throttled_pause=0.05)
OBJECTS = {"manifest": "/manifest.json", "index": "/index-", "checksums": "/cells-"}


@pytest.fixture(scope="module")
def uri(s3: S3Server) -> str:
    return token_dataset(s3.bucket("loaders-open") + "/tokens", TOKENS, seq_len=SEQ_LEN).uri


@pytest.fixture
def proxy(uri: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr("loaders.fetch.PATIENCE", HASTY)
        yield proxy


def of(name: str, rule: Rule) -> Rule:
    """Befalls only what is read from one of `OBJECTS`."""
    return lambda request: rule(request) if OBJECTS[name] in request.path else None


def rounds(served: list[Served]) -> int:
    """The longest chain of requests that each began when the one before had been answered."""
    depth: list[int] = []
    for number, one in enumerate(served):
        before = (depth[n] for n in range(number) if served[n].ended <= one.began)
        depth.append(1 + max(before, default=0))
    return max(depth)


def everything(dataset: TokenDataset) -> list[list[int]]:
    return [first_tokens(batch) for batch in token_loader(dataset, 8, True, timeout=60)]


def far_away(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests take longer than a busy machine needs to send those that can go out together."""
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience())
    proxy.latency_s = (1.0, 1.0)


def test_the_first_batch_takes_three_rounds_of_requests(
    uri: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    far_away(proxy, monkeypatch)
    next(iter(token_loader(TokenDataset(uri, SEQ_LEN), 8, True)))
    # The manifest; index and checksums; blocks. The clients are new: the endpoint is.
    assert rounds(proxy.served) == 3
    assert {line.split()[0] for line in proxy.seen} == {"GET"}
    assert not [line for line in proxy.seen if "list-type" in line]
    assert set(proxy.seen.values()) == {1}


@pytest.mark.slow
def test_checksums_too_many_to_hold_take_no_round_of_their_own(
    uri: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("loaders.blocks", "shards.tables"):
        monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)
    far_away(proxy, monkeypatch)
    next(iter(token_loader(TokenDataset(uri, SEQ_LEN), 8, True)))
    assert rounds(proxy.served) == 3


@pytest.mark.parametrize("name", OBJECTS)
def test_a_stall_at_opening_is_not_waited_for(uri: str, proxy: FaultyS3, name: str) -> None:
    expected = everything(TokenDataset(uri, SEQ_LEN))
    proxy.behave(of(name, first(1, Fault.STALL)))
    dataset = TokenDataset(uri, SEQ_LEN)
    (line,) = (line for line in proxy.seen if OBJECTS[name] in line)
    # It was asked for twice, and only the second one has been answered.
    assert proxy.seen[line] == 2
    assert len([one for one in proxy.served if one.line == line]) == 1
    assert everything(dataset) == expected


def test_checksums_read_beside_blocks_stall_as_blocks_do(
    uri: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("loaders.blocks", "shards.tables"):
        monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)
    dataset = TokenDataset(uri, SEQ_LEN)
    expected = everything(dataset)
    # Longer than the warning, which names it, until it is asked for again.
    proxy.behave(of("checksums", first(1, Fault.STALL)))
    loader = token_loader(dataset, 8, True, timeout=60, stall_warning_s=0.8)
    assert [first_tokens(batch) for batch in loader] == expected
    assert proxy.met[Fault.STALL] > 0
    assert loader.stats()["timeouts"] + loader.stats()["hedges_won"] > 0
    (line,) = (one.getMessage() for one in caplog.records if one.name == "loaders.iterator")
    assert f"the oldest {uri}{OBJECTS['checksums']}" in line


FAST = {("manifest", Fault.SHORT), ("checksums", Fault.SLOW_DOWN)}
PAIRS = [
    pytest.param(name, fault, marks=[] if (name, fault) in FAST else pytest.mark.slow)
    for name in OBJECTS
    for fault in (Fault.SLOW_DOWN, Fault.RESET, Fault.LOST, Fault.SHORT)
]


@pytest.mark.parametrize(("name", "fault"), PAIRS)
def test_a_fault_at_opening_is_tried_again(
    uri: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, name: str, fault: Fault
) -> None:
    # The CRT tells of it after its last attempt, its fourth, only.
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience(20.0, throttled_pause=0.05))
    expected = everything(TokenDataset(uri, SEQ_LEN))
    proxy.behave(of(name, first(5, fault)))
    assert everything(TokenDataset(uri, SEQ_LEN)) == expected
    assert proxy.met[fault] == 5


@pytest.mark.parametrize("name", ["index", "checksums"])
def test_a_table_with_a_wrong_bit_is_read_again_then_refused(
    uri: str, proxy: FaultyS3, name: str
) -> None:
    expected = everything(TokenDataset(uri, SEQ_LEN))
    proxy.behave(of(name, first(1, Fault.CORRUPT)))
    assert everything(TokenDataset(uri, SEQ_LEN)) == expected
    assert proxy.met[Fault.CORRUPT] == 1
    proxy.behave(of(name, always(Fault.CORRUPT)))
    table = OBJECTS[name].strip("/")
    with pytest.raises(DatasetError, match=rf"/{table}\w+\.arrow is not the table that the mani"):
        TokenDataset(uri, SEQ_LEN)
    assert proxy.met[Fault.CORRUPT] == 2


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one == "checksums" else pytest.mark.slow) for one in OBJECTS],
)
def test_a_store_that_never_answers_at_opening_is_named_in_the_log_and_in_the_error(
    uri: str,
    proxy: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    monkeypatch.setattr("loaders.fetch.PATIENCE", Patience(0.5, 0.5, 1.5, 1.5, 0.02))
    monkeypatch.setattr("loaders.bring.STALL_WARNING_S", 0.4)
    proxy.behave(of(name, always(Fault.STALL)))
    what = rf"{uri}{OBJECTS[name]}\S* bytes 0-\d+"
    with pytest.raises(StoreError, match=rf"{what} could not be read: \d attempts in .*no answer"):
        TokenDataset(uri, SEQ_LEN)
    (line,) = (one for one in caplog.records if one.name == "loaders.bring")
    assert line.levelno == logging.WARNING
    assert f"the oldest {uri}{OBJECTS[name]}" in line.getMessage()


def test_a_copy_in_another_process_asks_for_the_checksums_once(uri: str, proxy: FaultyS3) -> None:
    copy = pickle.loads(pickle.dumps(TokenDataset(uri, SEQ_LEN)))
    proxy.behave()
    assert int(copy[3]["input_ids"][0]) == 3 * SEQ_LEN
    copy[0], copy[100]
    (asked,) = (count for line, count in proxy.seen.items() if "/cells-" in line)
    assert asked == 1
    assert not [line for line in proxy.seen if "/manifest" in line or "/index" in line]


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.SHORT])
def test_a_plan_that_stalls_or_fails_is_read_as_the_tables_are(
    uri: str, proxy: FaultyS3, fault: Fault
) -> None:
    where = make_packs(uri, SEQ_LEN).where.removeprefix(uri)
    rule = first(1, fault)
    proxy.behave(lambda request: rule(request) if where in request.path else None)
    assert TokenDataset(uri, SEQ_LEN, packing="best_fit").padding_share < 1
    assert proxy.met[fault] == 1
    (asked,) = (count for line, count in proxy.seen.items() if where in line)
    assert asked == 2


def test_packs_are_planned_from_offsets_that_are_read_as_blocks_are(
    uri: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = make_packs(uri, SEQ_LEN, pack_dir=str(tmp_path / "calm")).where
    for fault in (Fault.STALL, Fault.CORRUPT):
        proxy.behave(of_shards(first(1, fault)))
        monkeypatch.setattr("loaders.pack._TOGETHER", 2)  # of three shards
        where = make_packs(uri, SEQ_LEN, pack_dir=str(tmp_path / fault.name)).where
        assert proxy.met[fault] == 3  # once for each
        assert Path(where).read_bytes() == Path(calm).read_bytes()


def test_a_manifest_of_any_length_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN)
    size = (tmp_path / "tokens/manifest.json").stat().st_size
    for stretch in (size - 1, size, size + 1, size // 3, size // 2):
        monkeypatch.setattr("loaders.opening._STRETCH", stretch)
        again = TokenDataset(dataset.uri, SEQ_LEN)
        assert again.stream.dataset.manifest == dataset.stream.dataset.manifest
        assert everything(again) == everything(dataset)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_table_cut_short_on_disk_is_named(tmp_path: Path, name: str) -> None:
    token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN)
    (path,) = (tmp_path / "tokens").glob(f"{OBJECTS[name].strip('/')}*")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=path.name):
        TokenDataset(str(tmp_path / "tokens"), SEQ_LEN)


def test_an_index_larger_than_any_is_refused_before_it_is_read(tmp_path: Path) -> None:
    dataset = token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN)
    manifest = tmp_path / "tokens/manifest.json"
    size = dataset.stream.dataset.manifest.tables.index.bytes
    manifest.write_text(manifest.read_text().replace(f'"bytes": {size}', f'"bytes": {1 << 60}', 1))
    with pytest.raises(DatasetError, match="promises an index of 1152921504606846976 bytes"):
        TokenDataset(dataset.uri, SEQ_LEN)


def test_a_mistyped_uri_is_told_by_what_is_there_and_not_by_a_job(
    s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.bucket("loaders-mistyped")
    nothing = rf"{bucket}/tokens holds no token dataset: there is no {bucket}/tokens/manifest\.json"
    with pytest.raises(DatasetError, match=rf"^{nothing}\. Is the uri right\?$"):
        TokenDataset(f"{bucket}/tokens", SEQ_LEN)
    wrong = tmp_path / "tokns" / "v1"
    with pytest.raises(DatasetError, match=rf"nothing is there\. .* exists is {tmp_path}: is the"):
        TokenDataset(str(wrong), SEQ_LEN)


def test_a_dataset_whose_job_has_not_ended_is_told_by_its_plan(
    s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.bucket("loaders-begun")
    for uri, folder in ((bucket, s3.path(bucket)), (str(tmp_path), tmp_path)):
        (folder / "plan.json").write_text("{}")
        with pytest.raises(DatasetError, match=r"plan\.json and no manifest\.json yet, .* job"):
            TokenDataset(uri, SEQ_LEN)


# In a process of its own, where nothing else has imported it.
FIRST_BATCHES = """
import sys
from loaders import DataLoader, TokenDataset
for options in ({}, {"document_mask": True}, {"packing": "best_fit"}):
    next(iter(DataLoader(TokenDataset(sys.argv[1], 64, **options), batch_size=8, shuffle=True)))
sys.exit("pandas" in sys.modules)
"""


def test_the_first_batch_waits_for_no_import_of_pandas(tmp_path: Path) -> None:
    assert find_spec("pandas"), "it has to be there to be imported"
    uri = token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN).uri
    make_packs(uri, SEQ_LEN, packing="best_fit")
    command = [sys.executable, "-c", FIRST_BATCHES, uri]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
