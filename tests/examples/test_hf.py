"""HF Trainer, and DeepSpeed under it: a resumed run is given what an undisturbed one is."""

import shutil
from pathlib import Path

import pytest

from tests.examples.support import Batch, expected, given, rows, run, run_twice, together

pytestmark = pytest.mark.slow

DEEPSPEED = ("--deepspeed", "docs/examples/deepspeed.json")


@pytest.fixture(scope="module")
def by_steps(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Batch]]:
    """A run of 26 steps of two batches, over the end of an epoch; checkpoints at 15 and 26."""
    output = tmp_path_factory.mktemp("hf") / "run"
    arguments = ("--data", data, "--steps", 26, "--save-every", 15, "--accumulate", 2)
    run("hf_trainer", "--output", output, *arguments)
    return output, given(output)


def test_trainer_resumed_by_steps_is_given_the_same(
    data: str, by_steps: tuple[Path, list[Batch]], tmp_path: Path
) -> None:
    folder, undisturbed = by_steps
    assert rows(undisturbed) == expected(data, 4, 52)
    output = copied(folder, tmp_path)
    run("hf_trainer", "--output", output, "--data", data, "--steps", 26, "--accumulate", 2)
    assert given(output) == undisturbed[30:]


def test_trainer_resumed_with_another_batch_size_is_given_the_same_global_batches(
    data: str, by_steps: tuple[Path, list[Batch]], tmp_path: Path
) -> None:
    folder, undisturbed = by_steps
    output = copied(folder, tmp_path)
    run("hf_trainer", "--output", output, "--data", data, "--steps", 26, "--batch-size", 8)
    # The short batch at the epoch's end is another one; the rows are the same, one after the other.
    flat = [row for batch in undisturbed[30:] for row in batch.rows]
    found = [row for batch in given(output) for row in batch.rows]
    assert len(found) > 60
    assert found[: len(flat)] == flat[: len(found)]


def test_evaluation_in_the_middle_moves_nothing(
    data: str, by_steps: tuple[Path, list[Batch]], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    arguments = ("--data", data, "--steps", 8, "--accumulate", 2, "--evaluate", "validation")
    run("hf_trainer", "--output", output, *arguments)
    assert given(output) == by_steps[1][:16]
    evaluations = rows(given(output, training=False))
    assert [len(batch) for batch in evaluations] == [4, 4, 2] * 4  # all that was held out
    assert evaluations == evaluations[:3] * 4


def test_trainers_own_skipping_inside_a_later_epoch_gives_the_same(data: str, output: Path) -> None:
    undisturbed, again = run_twice(
        "hf_trainer_epochs",
        output,
        *("--data", data, "--steps", 26, "--save-every", 14, "--accumulate", 2),
        lose="checkpoint-26",
    )
    # An epoch has 23 batches: twelve steps, the last one of a single batch.
    assert rows(undisturbed) == expected(data, 4, 50, seed=42)
    assert again == undisturbed[27:]


def test_deepspeed_takes_its_auto_batch_sizes_and_resumes_on_two_ranks(
    data: str, output: Path
) -> None:
    arguments = ("--data", data, "--steps", 15, "--save-every", 10, *DEEPSPEED)
    undisturbed, again = run_twice("hf_trainer", output, *arguments, lose="checkpoint-15", ranks=2)
    second = given(output, rank=1)
    assert together(undisturbed, second[:15]) == expected(data, 8, 15)
    assert again == undisturbed[10:]
    assert second[15:] == second[10:15]


def test_deepspeed_by_accelerate_takes_the_batch_size_of_the_loader(
    data: str, output: Path
) -> None:
    arguments = ("--data", data, "--output", output, "--steps", 8, "--accumulate", 2, *DEEPSPEED)
    run("accelerate_loop", *arguments, ranks=1)
    assert rows(given(output)) == expected(data, 4, 16)


def copied(folder: Path, to: Path) -> Path:
    """A run as it was when its first checkpoint was written."""
    shutil.copytree(folder / "checkpoint-15", to / "run" / "checkpoint-15")
    return to / "run"
