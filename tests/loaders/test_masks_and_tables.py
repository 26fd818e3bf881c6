"""Loss masks become labels of -100; checksums too many to hold are read with each block."""

from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import TokenDataset
from shards.errors import CorruptShard
from tests.loaders.support import Modes, token_dataset, token_loader
from tests.servers import S3Server

SEQ_LEN = 64
TOKENS = 60_000  # fits uint16
MASK = (np.random.default_rng(0).random(TOKENS) < 0.7).astype(np.uint8)


@pytest.fixture(params=["disk", "s3"])
def masked(request: pytest.FixtureRequest, tmp_path: Path) -> TokenDataset:
    if request.param == "disk":
        uri = str(tmp_path / "tokens")
    else:
        server: S3Server = request.getfixturevalue("s3")
        uri = server.bucket("loaders-masks") + "/tokens"
    return token_dataset(uri, TOKENS, seq_len=SEQ_LEN, dtype="uint16", mask=MASK)


@pytest.fixture(params=["held", "read with each block"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "held":
        for module in ("loaders.blocks", "shards.tables"):
            monkeypatch.setattr(f"{module}.WHOLE_TABLE_BYTES", 0)


def check(ids: torch.Tensor, labels: torch.Tensor) -> None:
    expected = torch.where(torch.from_numpy(MASK)[ids] == 1, ids, -100)
    assert torch.equal(labels, expected)


@pytest.mark.parametrize("mode", Modes)
@pytest.mark.usefixtures("table")
def test_masked_tokens_have_the_label_that_losses_ignore(masked: TokenDataset, mode: str) -> None:
    seen: list[int] = []
    for batch in token_loader(masked, 8, True, **Modes[mode]):
        check(batch["input_ids"], batch["labels"])
        seen += batch["input_ids"][:, 0].tolist()
    assert sorted(seen) == list(range(0, TOKENS - SEQ_LEN + 1, SEQ_LEN))
    for sample in masked[5:300:37]:
        check(sample["input_ids"], sample["labels"])


@pytest.mark.parametrize("what", ["tokens", "mask"])
@pytest.mark.parametrize("mode", Modes)
@pytest.mark.usefixtures("table")
def test_a_flipped_bit_is_found_in_tokens_and_in_the_mask(
    tmp_path: Path, mode: str, what: str
) -> None:
    dataset = token_dataset(
        str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN, dtype="uint16", mask=MASK
    )
    index = dataset.stream.dataset.index
    at = (index.tokens_at if what == "tokens" else index.loss_mask_at)[2]
    path = tmp_path / "tokens" / dataset.stream.dataset.path(2)
    data = bytearray(path.read_bytes())
    data[int(at) + 777] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=path.name):
        list(token_loader(dataset, 8, True, **Modes[mode]))


@pytest.mark.parametrize("held", [True, False])
def test_a_large_table_costs_one_more_read_a_block_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    if not held:
        monkeypatch.setattr("loaders.blocks.WHOLE_TABLE_BYTES", 0)
    dataset = token_dataset(str(tmp_path / "tokens"), TOKENS, seq_len=SEQ_LEN)
    loader = token_loader(dataset, 8, True)
    list(loader)
    # One run of samples over three shards.
    assert loader.stats()["requests"] == (3 if held else 6)
