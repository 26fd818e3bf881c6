"""Which data-parallel rank a process is: as given, by torch.distributed, a mesh or a launcher."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from loaders.world import data_parallel
from tests.loaders.support import first_tokens, token_dataset, token_loader

SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (2, 4)),
        (SLURM, (5, 8)),
        # srun starts torchrun, which starts the ranks.
        ({**SLURM, **TORCHRUN}, (2, 4)),
        # A batch script, outside of srun: one process, whatever was allocated.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),
    ],
)
def test_a_launchers_environment_says_rank_and_size(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert data_parallel(None, None) == expected
    assert data_parallel(1, 3) == (1, 3)


def test_an_environment_of_no_numbers_names_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "five")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ValueError, match="SLURM_PROCID='five' and SLURM_STEP_NUM_TASKS='8'"):
        data_parallel(None, None)


class Mesh:
    """What is asked of a DeviceMesh; the real one is in the slow test."""

    def __init__(self, sizes: list[int], place: list[int] | None, *names: str) -> None:
        self.sizes, self.place = sizes, place
        self.mesh_dim_names = names or None

    def get_coordinate(self) -> list[int] | None:
        return self.place

    def size(self, dimension: int | None = None) -> int:
        if dimension is not None:
            return self.sizes[dimension]
        every = 1
        for size in self.sizes:
            every *= size
        return every


def test_a_mesh_of_several_dimensions_counts_the_last_one_fastest() -> None:
    for replicate in range(3):
        for shard in range(4):
            mesh: Any = Mesh([3, 4], [replicate, shard])
            assert data_parallel(None, None, mesh) == (4 * replicate + shard, 12)


def test_a_mesh_and_numbers_or_a_mesh_of_others_is_refused() -> None:
    outside: Any = Mesh([4], None)
    with pytest.raises(ValueError, match="this process is not in data_parallel_mesh"):
        data_parallel(None, None, outside)
    with pytest.raises(ValueError, match="leave out data_parallel_rank and data_parallel_size"):
        data_parallel(0, 4, outside)


@pytest.mark.parametrize(
    "name", ["tp", "pp", "cp", "dp_cp", "dp_shard_cp", "tensor_parallel", "context-parallel"]
)
def test_a_mesh_with_a_dimension_that_shares_a_model_is_refused(name: str) -> None:
    mesh: Any = Mesh([2, 4], [1, 3], "dp", name)
    with pytest.raises(ValueError, match=rf"along '{name}' share a model .* mesh\[\"dp\"\]"):
        data_parallel(None, None, mesh)
    # Nobody shares anything along a dimension of one rank.
    alone: Any = Mesh([2, 1], [1, 0], "dp", name)
    assert data_parallel(None, None, alone) == (1, 2)


@pytest.mark.parametrize("names", [("replicate", "shard"), ("dp_replicate", "dp_shard"), ()])
def test_a_mesh_of_data_parallel_dimensions_or_without_names_is_taken(
    names: tuple[str, ...],
) -> None:
    mesh: Any = Mesh([2, 4], [1, 3], *names)
    assert data_parallel(None, None, mesh) == (7, 8)


@pytest.mark.slow
def test_peers_that_share_a_model_get_equal_rows_in_a_real_mesh(
    tmp_path: Path, repository: Path
) -> None:
    uri = str(tmp_path / "tokens")
    dataset = token_dataset(uri, 405 * 64, seq_len=64)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    program = [str(repository / "tests/loaders/mesh_program.py"), uri, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [*command, *program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    for one in ranks:
        # A mesh of 2 x 2: tensor-parallel peers have the same place in "dp".
        assert one["dp"]["rows"] == ranks[2 * one["place"]["dp"]]["dp"]["rows"]
        assert one["environment"] == one["distributed"] == one["replicate shard"]
        assert "share a model" in one["refused"]
        for name in ("environment", "dp"):
            assert one[name]["state"] == ranks[0][name]["state"]
            assert one[name]["steps"] == ranks[0][name]["steps"]
    for name, members in (("dp", (0, 2)), ("distributed", (0, 1, 2, 3))):
        alone = token_loader(
            dataset, 4 * len(members), True, data_parallel_rank=0, data_parallel_size=1
        )
        for step, batch in enumerate(islice(alone.repeat(), 30)):
            together = [token for rank in members for token in ranks[rank][name]["rows"][step]]
            wanted = first_tokens(batch)
            padding = len(together) - len(wanted)
            assert sorted(together) == sorted([*wanted, *[0] * padding]), (name, step)


def test_a_rank_without_a_number_of_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="RANK='1' and no WORLD_SIZE"):
        data_parallel(None, None)
