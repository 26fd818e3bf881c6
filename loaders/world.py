"""Which data-parallel rank this process is, of how many."""

import os

import torch.distributed


def data_parallel(rank: int | None, size: int | None) -> tuple[int, int]:
    """Rank and size: as given, else torch.distributed's, else torchrun's environment, else 0 of 1.

    Raises:
        ValueError: only one of them was given, or the environment's are no numbers.
    """
    if (rank is None) != (size is None):
        raise ValueError(
            f"data_parallel_rank={rank} and data_parallel_size={size}: give both or neither"
        )
    if rank is not None and size is not None:
        return rank, size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank_text, size_text = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank_text is None or size_text is None:
        return 0, 1
    try:
        return int(rank_text), int(size_text)
    except ValueError:
        raise ValueError(
            f"the environment has RANK={rank_text!r} and WORLD_SIZE={size_text!r}, which are not "
            "whole numbers; give data_parallel_rank and data_parallel_size, or unset them"
        ) from None
