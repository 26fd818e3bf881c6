"""The emulated accelerator keeps its promises on a real clock."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import xxhash

from benchmarks.starvation.cards.accelerator import (
    EmulatedAccelerator,
    Node,
    real_tokens,
    wait_until,
)
from benchmarks.starvation.cards.profiles import PROFILES

BASE = PROFILES["h100-1b"]
MS = 1_000_000
# 40 ms for 2 x 8 slots, so that a busy machine does not disturb it; a fast link, no optimizer.
FAST = replace(BASE, step_s=0.04, batch_size=2, seq_len=8, parameters=0, h2d_bytes_per_s=1e12)


def batch(rows: int = 2, fill: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.full((rows, 8), fill, dtype=torch.int64)
    return {"input_ids": ids, "labels": ids.clone()}


@pytest.fixture
def accelerator():
    device = EmulatedAccelerator(FAST)
    yield device
    device.close()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_takes_its_published_time_for_its_published_step(profile):
    assert profile.step_ns(profile.step_slots) == pytest.approx(1e9 * profile.step_s, abs=1)
    assert 0 < profile.fixed_ns < 0.2 * 1e9 * profile.step_s
    assert profile.step_ns(1) > profile.fixed_ns


def test_a_fed_device_never_rests_and_useful_time_is_the_nominal_time(accelerator):
    for _ in range(12):
        accelerator.submit(batch())
    steps = accelerator.finish().steps
    assert ((steps["end"] - steps["start"]) == 40 * MS).all()
    assert (steps["start"][1:] == steps["end"][:-1]).all()
    assert (steps["overshoot"] >= 0).all()


def test_a_late_batch_is_a_gap_of_that_length_and_no_work(accelerator):
    accelerator.submit(batch())
    accelerator.submit(batch())
    wait_until(time.perf_counter_ns() + 150 * MS)
    late = time.perf_counter_ns()
    accelerator.submit(batch())
    steps = accelerator.finish().steps
    assert steps["start"][2] >= late
    assert steps["start"][2] - steps["end"][1] >= 60 * MS
    assert steps["end"][2] - steps["start"][2] == 40 * MS


def test_the_host_runs_two_steps_ahead_and_then_waits(accelerator):
    accelerator.submit(batch())
    accelerator.submit(batch())
    ahead = time.perf_counter_ns()
    accelerator.submit(batch())
    waited = time.perf_counter_ns()
    assert ahead < accelerator.finish().steps["end"][0] <= waited


def test_the_time_scale_shortens_steps_and_is_named():
    device = EmulatedAccelerator(FAST, time_scale=0.25)
    device.submit(batch())
    steps = device.finish().steps
    device.close()
    assert steps["end"][0] - steps["start"][0] == 10 * MS
    assert device.title == "emulated(H100 1B seq 512, time x 0.25)"
    with pytest.raises(ValueError, match="above 0"):
        EmulatedAccelerator(FAST, time_scale=0)


def test_cards_share_a_batch_and_have_a_link_each():
    device = EmulatedAccelerator(replace(FAST, h2d_bytes_per_s=1e6), cards=8)
    device.close()
    assert device.step_ns(8 * 16) == 40 * MS
    assert device.copy_ns(8_000) == MS
    assert device.title == "emulated(8 x H100 1B seq 512)"
    with pytest.raises(ValueError, match="at least one"):
        EmulatedAccelerator(FAST, cards=0)


def test_copying_takes_the_stated_rate_and_overlaps_with_compute():
    device = EmulatedAccelerator(replace(FAST, h2d_bytes_per_s=2 * 2 * 8 * 8 / 0.016))
    for _ in range(4):
        device.submit(batch())
    steps = device.finish().steps
    device.close()
    assert ((steps["copy_end"] - steps["copy_start"]) == 16 * MS).all()
    assert (steps["start"] >= steps["copy_end"]).all()
    assert (steps["copy_start"][1:] < steps["end"][:-1]).all()
    assert (steps["start"][2:] == steps["end"][1:-1]).all()


def test_every_byte_of_every_batch_is_in_the_checksum(accelerator):
    first, second = batch(fill=1), batch(fill=2)
    second["labels"][-1, -1] += 1
    expected = xxhash.xxh3_64()
    for given in (first, second):
        accelerator.submit(given)
        for name in ("input_ids", "labels"):
            expected.update(given[name].numpy().tobytes())
    trace = accelerator.finish()
    assert trace.checksum == expected.intdigest()
    assert trace.steps["bytes"].tolist() == [256, 256]


def test_a_batch_the_device_cannot_take_is_an_error_in_the_loop(accelerator):
    accelerator.submit({"input_ids": "no tensor"})
    with pytest.raises(RuntimeError, match="could not take a batch") as raised:
        accelerator.finish()
    assert isinstance(raised.value.__cause__, AttributeError)


def test_padding_is_what_the_mask_or_wholly_masked_rows_say():
    given = batch(rows=4)
    given["labels"][1, :] = -100
    given["labels"][2, :5] = -100
    assert real_tokens(given) == 3 * 8
    assert real_tokens(given | {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}) == 3


def test_finish_begins_anew_and_close_ends_the_thread():
    device = EmulatedAccelerator(FAST)
    device.submit(batch())
    assert len(device.finish().steps) == 1
    device.submit(batch())
    device.submit(batch())
    assert len(device.finish().steps) == 2
    device.close()
    assert "emulated-accelerator" not in {t.name for t in threading.enumerate()}


def test_a_busy_host_launches_late_and_is_named():
    device = EmulatedAccelerator(FAST, time_scale=0.5, node=Node(host_busy_ms=60))
    for _ in range(4):
        device.submit(batch())
    steps = device.finish().steps
    device.close()
    assert (np.diff(steps["start"]) >= 30 * MS).all()
    assert (steps["start"][1:] - steps["end"][:-1] >= 10 * MS).all()
    assert (steps["end"] - steps["start"] == 20 * MS).all()
    assert device.title == "emulated(H100 1B seq 512, time x 0.5, host busy 60 ms)"


def test_pageable_memory_holds_the_loop_for_a_copy_at_half_the_rate():
    slow = Node(pageable=True, h2d_bytes_per_s=256 / 0.010)
    device = EmulatedAccelerator(FAST, node=slow)
    before = time.perf_counter_ns()
    handed = device.submit(batch())
    assert handed - before >= 20 * MS
    steps = device.finish().steps
    device.close()
    assert steps["copy_end"][0] - steps["copy_start"][0] == 20 * MS
    assert device.title == "emulated(H100 1B seq 512, link 2.56e-05 GB/s, pageable memory)"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"host_busy_ms": -1}, "host_busy_ms is -1"), ({"h2d_bytes_per_s": 0}, "must be above 0")],
)
def test_a_node_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Node(**wrong)


def test_slow_profiles_are_shortened_so_that_a_run_takes_minutes():
    assert PROFILES["h100-124m"].time_scale == 1
    assert PROFILES["h100-1b"].time_scale == 1 / 25
    assert PROFILES["deck-8b-nvlink"].communication_s == 0
    eni = PROFILES["deck-8b-eni"]
    assert 50 * (eni.step_s + eni.communication_s) == pytest.approx(80 * 60 + 29)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_model_of_the_real_step_learns_on_a_cpu(one_thread):
    from benchmarks.starvation.cards.model import Llama, Size

    torch.manual_seed(0)
    model = Llama(Size(layers=2, width=32, heads=4, kv_heads=2, hidden=64), vocabulary=50)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.arange(40).reshape(2, 20)
    losses = []
    for _ in range(30):
        loss = model(ids, ids.clone())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    early = model(ids[:, :10], ids[:, :10].clone())
    changed = ids.clone()
    changed[:, 15:] = 0
    again = model(changed[:, :10], changed[:, :10].clone())
    assert torch.equal(early, again)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU")
def test_a_gpu_times_its_steps_on_the_hosts_clock():
    from benchmarks.starvation.cards.gpu import CudaAccelerator

    device = CudaAccelerator("125m", vocabulary=1000)
    began = time.perf_counter_ns()
    for _ in range(12):
        device.submit(batch(rows=8))
    trace = device.finish()
    ended = time.perf_counter_ns()
    steps = trace.steps
    assert len(steps) == 12
    assert trace.clock_error_ns < 200_000
    assert began - 200_000 < steps["copy_start"][0]
    assert steps["end"][-1] < ended + 200_000
    assert (steps["start"] + 1000 >= steps["copy_end"]).all()
    assert (np.diff(steps["end"]) > 0).all()


def test_overshoot_is_what_held_the_host_and_nothing_else(monkeypatch):
    late = 30 * MS
    real = wait_until
    monkeypatch.setattr(
        "benchmarks.starvation.cards.accelerator.wait_until", lambda deadline: real(deadline + late)
    )
    device = EmulatedAccelerator(FAST)
    device.submit(batch())
    device.submit(batch())
    real(time.perf_counter_ns() + 160 * MS)
    device.submit(batch())
    steps = device.finish().steps
    device.close()
    # Nobody waited for the first two; only the third was waited for, by finish().
    assert steps["overshoot"][:2].tolist() == [0, 0]
    assert steps["overshoot"][2] >= late
    assert (steps["end"] - steps["start"] == 40 * MS).all()
