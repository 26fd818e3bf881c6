"""Lightning: a resumed run is given what an undisturbed one is."""

from pathlib import Path

import pytest

from tests.examples.support import expected, given, rows, run, run_twice, together

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("steps", "save_every", "accumulate"),
    [
        (26, 23, 1),  # at the very end of an epoch of 23 batches
        (26, 14, 2),  # inside the second one
    ],
)
def test_lightning_resumed_is_given_the_same(
    data: str, output: Path, steps: int, save_every: int, accumulate: int
) -> None:
    undisturbed, again = run_twice(
        "lightning_fit",
        output,
        *("--data", data, "--steps", steps, "--save-every", save_every),
        *("--accumulate", accumulate, "--devices", 1),
    )
    assert rows(undisturbed) == expected(data, 4, len(undisturbed))
    assert again == undisturbed[batches(save_every, accumulate) :]


def test_lightning_starts_two_ranks_that_share_each_global_batch(data: str, output: Path) -> None:
    arguments = ("--data", data, "--output", output, "--devices", 2, "--steps", 14)
    run("lightning_fit", *arguments, "--save-every", 8)
    assert together(given(output), given(output, rank=1)) == expected(data, 8, 14)


def batches(steps: int, accumulate: int) -> int:
    """How many batches of 4 of 90 rows that many steps take, where no step spans two epochs."""
    per_epoch = -(-23 // accumulate)
    epochs, rest = divmod(steps, per_epoch)
    return 23 * epochs + rest * accumulate
