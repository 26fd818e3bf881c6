"""Training loops of one's own: a resumed run is given what an undisturbed one is."""

import importlib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.examples.support import (
    REPOSITORY,
    command,
    environment,
    expected,
    given,
    rows,
    run,
    run_twice,
    together,
)
from tests.loaders.support import wait_until

pytestmark = pytest.mark.slow


def test_a_plain_loop_that_is_killed_has_the_loss_curve_of_an_undisturbed_one(
    data: str, tmp_path: Path
) -> None:
    arguments = ("--data", data, "--save-every", 5)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    endless = command("plain_loop", "--output", killed, "--steps", 1_000_000, *arguments)
    with subprocess.Popen(
        endless, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        log = killed / "batches-rank0.jsonl"
        wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 8, 120)
        process.send_signal(signal.SIGKILL)
    at_most = len(log.read_text().splitlines())
    steps = at_most + 10
    run("plain_loop", "--output", killed, "--steps", steps, *arguments)
    resumed = given(killed)[at_most:]
    assert len(resumed) >= 10
    run("plain_loop", "--output", undisturbed, "--steps", steps, *arguments)
    assert resumed == given(undisturbed)[-len(resumed) :]
    assert rows(resumed) == expected(data, 4, steps)[-len(resumed) :]


def test_ddp_gives_the_same_global_batches_when_it_goes_on_with_one_rank(
    data: str, output: Path
) -> None:
    arguments = ("--data", data, "--output", output, "--batch-size", 8, "--save-every", 8)
    run("ddp", *arguments, "--steps", 15, ranks=2)
    first, second = given(output), given(output, rank=1)
    run("ddp", *arguments, "--steps", 15, ranks=1)
    alone = given(output)[15:]
    # An epoch has 12 steps, the last of two rows.
    assert together(first, second) == expected(data, 8, 15)
    assert rows(alone) == together(first, second)[8:]
    means = [(left.loss + right.loss) / 2 for left, right in zip(first, second, strict=True)]
    assert [batch.loss for batch in alone] == pytest.approx(means[8:], abs=1e-4)


def test_accelerate_saves_and_restores_the_place_with_its_state(data: str, output: Path) -> None:
    undisturbed, again = run_twice(
        "accelerate_loop",
        output,
        *("--data", data, "--steps", 26, "--save-every", 15, "--accumulate", 2),
    )
    assert rows(undisturbed) == expected(data, 4, 52)
    assert again == undisturbed[30:]


@pytest.mark.parametrize(
    ("name", "launcher"),
    [
        ("ddp", "torchrun --nproc-per-node 2 -m docs.examples.ddp --data"),
        ("distributed_checkpoint", "torchrun --nproc-per-node 2 -m docs.examples.distributed_"),
        ("accelerate_loop", "accelerate launch -m docs.examples.accelerate_loop --data"),
        ("hf_trainer", "accelerate launch -m docs.examples.hf_trainer --data"),
    ],
)
def test_the_help_of_an_example_says_the_launcher_that_starts_it(
    name: str,
    launcher: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"docs.examples.{name}").main()
    assert launcher in capsys.readouterr().out
