"""The benchmark's own training step, really computed on the CPU, and what is written down of it."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks.starvation import StarvationMonitor
from benchmarks.starvation.cards.accelerator import EmulatedAccelerator
from benchmarks.starvation.cards.cpu import CpuAccelerator
from benchmarks.starvation.cards.model import SIZES, Llama
from benchmarks.starvation.cards.pick import pick_accelerator
from benchmarks.starvation.cards.training import TrainingStep
from benchmarks.starvation.command import main
from benchmarks.starvation.loop.world import World
from benchmarks.starvation.options import Options
from shards.errors import StokerError

VOCABULARY = 100
MS = 1_000_000


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")


def batch(rows: int = 2, length: int = 16) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * length).reshape(rows, length) % VOCABULARY
    return {"input_ids": ids, "labels": ids.clone()}


def test_a_step_on_the_cpu_computes_and_is_timed_on_the_hosts_clock():
    device = CpuAccelerator("tiny", VOCABULARY)
    began = time.perf_counter_ns()
    handed = [device.submit(batch()) for _ in range(3)]
    first = device.loss
    for _ in range(60):
        device.submit(batch())
    trace = device.finish()
    assert device.loss < first
    steps = trace.steps
    assert len(steps) == 63
    assert steps["start"][:3].tolist() == handed
    assert began <= steps["start"][0]
    assert (steps["end"] > steps["start"]).all()
    assert (steps["start"][1:] >= steps["end"][:-1]).all()
    assert steps["end"][-1] <= time.perf_counter_ns()
    assert steps["tokens"].tolist() == [32] * 63
    assert trace.checksum == 63 * 2 * int(batch()["input_ids"].sum())
    assert not device.emulated
    assert device.title == "CPU, Llama tiny, float32"
    assert len(device.finish().steps) == 0


@pytest.mark.parametrize("name", SIZES)
def test_a_model_is_of_the_size_that_its_name_says(name):
    with torch.device("meta"):
        model = Llama(SIZES[name], vocabulary=128_256)
    inside = sum(p.numel() for p in model.parameters()) - model.embed.weight.numel()
    expected = {"tiny": 0.1e6, "125m": 85e6, "1b": 0.97e9, "8b-layer": 6.98e9 / 32}[name]
    assert inside == pytest.approx(expected, rel=0.05)


def test_gradient_checkpointing_computes_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        step = TrainingStep(
            "tiny", VOCABULARY, torch.device("cpu"), World(), checkpointing=checkpointing
        )
        step.backward(batch())
        gradients.append([parameter.grad for parameter in step.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other)
    assert "gradient checkpointing" in step.title


def test_the_monitor_gives_a_real_step_all_of_its_time_and_the_loader_all_of_its_own():
    """Each inequality holds whatever the machine does meanwhile: one clock lies inside another."""
    step = TrainingStep("tiny", VOCABULARY, torch.device("cpu"), World())
    computed, waited = [], []

    def loader():
        for _ in range(12):
            began = time.perf_counter_ns()
            time.sleep(0.02)
            made = batch()
            waited.append(time.perf_counter_ns() - began)
            yield made

    with StarvationMonitor(loader(), device="cpu", name="slow") as monitor:
        for given in monitor:
            began = time.perf_counter_ns()
            step.backward(given)
            step.update()
            computed.append(time.perf_counter_ns() - began)
    report = monitor.report()
    (result,) = report.results
    (run,) = result.runs
    inside = result.causes["compute"] + result.causes.get("gc", 0)
    assert inside >= sum(computed[run.warmup :])
    assert result.causes["input"] >= sum(waited[run.warmup :])
    assert sum(result.causes.values()) == result.window_ns
    assert result.figures.stall_rate >= run.steps * 20 * MS / result.window_ns
    assert not report.emulated


def test_the_command_trains_tiny_on_the_cpu_and_calls_it_that(made, tmp_path, without_a_gpu):
    arguments = ["--data", made.tokens, "--output", str(tmp_path), "--model", "tiny"]
    quick = ["--seq-len", "16", "--steps", "10", "--warmup", "2", "--seeds", "1"]
    assert main([*arguments, *quick]) == 0
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["accelerator"] == "CPU, Llama tiny, float32"
    assert document["emulated"] is False
    assert document["setup"]["batch"] == "4 x 16 tokens"
    for result in document["results"]:
        assert result["figures"]["overshoot_share"] == 0
        assert result["causes"]["compute"] > 0
        assert sum(result["causes"].values()) == result["window_ns"]
        assert not [name for name in result["counters"] if name.startswith(("nvml", "dcgm"))]
    page = (tmp_path / "report.md").read_text()
    assert "CPU, Llama tiny" in page
    assert "No GPU was used" not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "1b"}, "--model 1b needs a GPU, and torch sees none: tiny trains on the CPU"),
        ({"model": "tiny", "time_scale": 0.5}, "--time-scale 0.5: only the emulated accelerator"),
        ({"model": "tiny", "cards": 8, "pageable": True}, "--cards 8, --pageable: only the emul"),
        ({"gradient_checkpointing": True}, "--gradient-checkpointing needs a real step"),
    ],
)
def test_what_cannot_be_trained_here_is_an_error(wrong, message, tmp_path, without_a_gpu):
    with pytest.raises(StokerError, match=message):
        pick_accelerator(Options(data="x", output=tmp_path, **wrong), VOCABULARY)


def test_without_model_and_gpu_the_card_is_emulated(tmp_path, without_a_gpu):
    device = pick_accelerator(Options(data="x", output=tmp_path, cards=2), VOCABULARY)
    assert isinstance(device, EmulatedAccelerator)
    device.close()
    with pytest.raises(StokerError, match="no model 'huge': choose one of tiny"):
        Options(data="x", output=tmp_path, model="huge")
