"""Batches on their way to a GPU: the same ones, counted when they are taken, ready before needed.

What needs a GPU is skipped without one; the order of copies and what is counted are tested with
copies that stay on the CPU.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from loaders import DataLoader, TokenDataLoader, TokenDataset
from loaders.device import AHEAD, to_device, widened
from loaders.iterator import Kept
from loaders.slabs import Slabs
from tests.loaders.support import Modes, token_dataset, token_loader, wait_until

SEQ_LEN = 64
SAMPLES = 405

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module", params=["uint16", "uint32"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    tokens = SAMPLES * SEQ_LEN + 17
    mask = (np.arange(tokens) % 5 > 0).astype(np.uint8)
    uri = str(tmp_path_factory.mktemp("device") / "tokens")
    token_dataset(uri, tokens, seq_len=SEQ_LEN, dtype=request.param, mask=mask)
    return uri


@dataclass
class Stay:
    """Copies that stay on the CPU; notes what was started and taken."""

    started: list[torch.Tensor] = field(default_factory=list)
    taken: int = 0

    def start(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int32
        self.started.append(batch["input_ids"])
        return widened(to_device(batch, torch.device("cpu")))

    def take(self, copied: dict[str, Any]) -> dict[str, Any]:
        self.taken += 1
        assert len(self.started) - self.taken <= AHEAD
        return copied


def staying(loader: TokenDataLoader) -> Stay:
    """Makes a loader go the way of a device's, without one."""
    stay = Stay()
    loader._settings = replace(loader._settings, copies=stay)
    loader._kept = Kept(Slabs(narrow=True))
    return stay


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in other.items():
        if isinstance(value, torch.Tensor):
            assert one[name].dtype == value.dtype, name
            assert torch.equal(one[name].cpu(), value.cpu()), name
        else:
            assert one[name] == value, name


FORMS: list[dict[str, Any]] = [{}, {"labels": "next", "document_mask": True}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", Modes)
def test_batches_that_travel_narrow_arrive_as_the_others(
    dataset: str, mode: str, form: dict[str, Any]
) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN, **form)
    plain = token_loader(tokens, 8, shuffle=True, **Modes[mode])
    loader = token_loader(tokens, 8, shuffle=True, **Modes[mode])
    stay = staying(loader)
    for _ in range(2):
        for batch, other in zip(loader, plain, strict=True):
            same(batch, other)
    assert stay.taken == len(stay.started) == 2 * len(plain)


def test_copies_are_ahead_and_the_state_counts_what_was_taken(dataset: str) -> None:
    loader = token_loader(TokenDataset(dataset, SEQ_LEN), 8, shuffle=True)
    stay = staying(loader)
    iterator = iter(loader)
    for step in range(1, 20):
        if step > 3:  # the first chunks are short
            wait_until(lambda: loader.stats()["batches_ready"] > AHEAD)
        next(iterator)
        assert loader.state_dict()["position"] == 8 * step
    assert len(stay.started) == 19 + AHEAD
    assert len(list(iterator)) == len(loader) - 19
    assert loader.state_dict()["epoch"] == 1


def test_a_restored_loader_copies_from_the_next_batch_on(dataset: str) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN)
    whole = list(token_loader(tokens, 8, shuffle=True))
    loader = token_loader(tokens, 8, shuffle=True)
    staying(loader)
    iterator = iter(loader)
    for _ in range(7):
        next(iterator)
    again = token_loader(tokens, 8, shuffle=True)
    again.load_state_dict(loader.state_dict())
    staying(again)
    for batch, other in zip(again, whole[7:], strict=True):
        same(batch, other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), 0])
def test_without_cuda_a_device_warns_and_does_nothing(dataset: str, device: Any) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN)
    with pytest.warns(UserWarning, match="batches stay on the CPU"):
        loader = token_loader(tokens, 8, device=device)
    for batch, other in zip(loader, token_loader(tokens, 8), strict=True):
        same(batch, other)
        assert batch["input_ids"].device.type == "cpu"


def test_a_device_that_is_neither_cuda_nor_cpu_is_refused(dataset: str) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN)
    with pytest.raises(ValueError, match=r"device='mps'.*CUDA devices only"):
        token_loader(tokens, 8, device="mps")
    assert len(list(token_loader(tokens, 8, device="cpu"))) == 51


def test_a_device_over_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="device= is for a TokenDataset"):
        DataLoader([1, 2, 3], device="cuda")  # type: ignore[arg-type]


def test_one_tensor_under_several_names_is_copied_once() -> None:
    ends = torch.arange(3, dtype=torch.int32)
    out = to_device(
        {"cu_seqlens": ends, "cu_seq_lens_q": ends, "max_seqlen": 2}, torch.device("meta")
    )
    assert out["cu_seqlens"] is out["cu_seq_lens_q"]
    assert out["max_seqlen"] == 2
    assert widened(out)["cu_seqlens"].dtype == torch.int32


@needs_gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", Modes)
def test_batches_on_the_gpu_are_right_while_others_are_kept(
    dataset: str, mode: str, form: dict[str, Any]
) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN, **form)
    kept = list(token_loader(tokens, 8, shuffle=True, device="cuda", **Modes[mode]))
    for batch, other in zip(
        kept, token_loader(tokens, 8, shuffle=True, **Modes[mode]), strict=True
    ):
        assert batch["input_ids"].is_cuda
        same(batch, other)


@needs_gpu
def test_a_batch_that_was_let_go_is_not_overwritten_before_its_step_ran(dataset: str) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN)
    expected = [batch["input_ids"].sum().item() for batch in token_loader(tokens, 8)]
    heavy = torch.randn(4096, 4096, device="cuda")
    sums = []
    for batch in token_loader(tokens, 8, device="cuda"):
        heavy = heavy @ heavy  # the step is far behind the copies
        heavy /= heavy.norm()
        sums.append(batch["input_ids"].sum())
        del batch
    assert [total.item() for total in sums] == expected


@needs_gpu
def test_pin_memory_and_to_as_people_write_it_work(dataset: str) -> None:
    tokens = TokenDataset(dataset, SEQ_LEN)
    loader = token_loader(tokens, 8, shuffle=True, pin_memory=True)
    sums = []
    for batch in loader:
        assert batch["input_ids"].is_pinned()
        sums.append(batch["input_ids"].to("cuda", non_blocking=True).sum())
    expected = [
        batch["input_ids"].sum().item()
        for batch in TorchDataLoader(
            tokens, 8, sampler=token_loader(tokens, 8, shuffle=True).sampler
        )
    ]
    assert [total.item() for total in sums] == expected
