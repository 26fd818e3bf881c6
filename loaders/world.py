"""Which data-parallel rank this process is, of how many."""

import os
import re

import torch.distributed
from torch.distributed.device_mesh import DeviceMesh

# Launchers, in the order in which they are asked: the name of rank and size in the environment.
# `SLURM_STEP_NUM_TASKS` is there only under `srun`; in a batch script itself, which is one process,
# `SLURM_NTASKS` and `SLURM_PROCID=0` are there as well.
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))

# Parts of the names by which mesh dimensions are known whose ranks share a model, and so need equal
# rows: torchtitan's, accelerate's, Megatron's; also where several were flattened ("dp_shard_cp").
# Not "ep": expert-parallel ranks have rows of their own.
_SHARES_A_MODEL = {
    *("tp", "pp", "cp", "sp", "mp"),
    *("tensor", "pipeline", "pipe", "context", "sequence", "model"),
}


def data_parallel(
    rank: int | None, size: int | None, mesh: DeviceMesh | None = None
) -> tuple[int, int]:
    """Rank and size: as given, else the mesh's, else torch.distributed's, else those of torchrun's
    or Slurm's environment, else 0 of 1.

    Args:
        mesh: of the data-parallel dimensions alone; with several, the last one counts fastest.

    Raises:
        ValueError: only one of rank and size was given, or they and a mesh; this process is not in
            the mesh; a dimension of it is known as one whose ranks share a model; the environment's
            are no numbers.
    """
    if (rank is None) != (size is None):
        raise ValueError(
            f"data_parallel_rank={rank} and data_parallel_size={size}: give both or neither"
        )
    if rank is not None and size is not None:
        if mesh is not None:
            raise ValueError(
                "data_parallel_mesh says rank and size: leave out data_parallel_rank and "
                "data_parallel_size"
            )
        return rank, size
    if mesh is not None:
        return _of_mesh(mesh)
    if _initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return _of_environment() or (0, 1)


def said_by_nobody() -> bool:
    """Whether nothing but the arguments says which rank this process is: 0 of 1 is a guess."""
    return not _initialized() and _of_environment() is None


def refuse_other_ranks() -> None:
    """RuntimeError if torch.distributed by now knows several ranks.

    For a loader that was made as 0 of 1 by a guess: every rank would get the same batches.
    """
    if _initialized() and (size := torch.distributed.get_world_size()) > 1:
        raise RuntimeError(
            "this loader was made as data-parallel rank 0 of 1, since nothing said otherwise, and "
            f"now torch.distributed has {size} ranks: they would all train on the same batches. "
            "Make the loader after init_process_group (Lightning: in train_dataloader), or give "
            "data_parallel_rank and data_parallel_size"
        )


def _initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_mesh(mesh: DeviceMesh) -> tuple[int, int]:
    place = mesh.get_coordinate()
    if place is None:
        raise ValueError(
            f"this process is not in data_parallel_mesh={mesh}: a rank without a loader must not "
            "make one"
        )
    _check_dimensions(mesh)
    rank = 0
    for dimension, coordinate in enumerate(place):
        rank = rank * mesh.size(dimension) + coordinate
    return rank, mesh.size()


def _check_dimensions(mesh: DeviceMesh) -> None:
    names = mesh.mesh_dim_names or ()
    for dimension, name in enumerate(names):
        words = set(re.split(r"[^a-z]+", name.lower()))
        if mesh.size(dimension) > 1 and words & _SHARES_A_MODEL:
            raise ValueError(
                f"data_parallel_mesh has dimensions {names}: ranks along {name!r} share a model "
                "and must get equal rows. Give the data-parallel dimensions alone, "
                'mesh["dp"] or mesh["replicate", "shard"], or data_parallel_rank= and '
                "data_parallel_size="
            )


def _of_environment() -> tuple[int, int] | None:
    for rank_name, size_name in _LAUNCHERS:
        rank, size = os.environ.get(rank_name), os.environ.get(size_name)
        if rank_name == "RANK" and rank is not None and size is None:
            raise ValueError(
                f"the environment has RANK={rank!r} and no WORLD_SIZE: set both, as torchrun does, "
                "or give data_parallel_rank and data_parallel_size"
            )
        if rank is None or size is None:
            continue
        try:
            return int(rank), int(size)
        except ValueError:
            raise ValueError(
                f"the environment has {rank_name}={rank!r} and {size_name}={size!r}, which are not "
                "whole numbers; give data_parallel_rank and data_parallel_size, or unset them"
            ) from None
    return None
