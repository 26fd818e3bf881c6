"""Run by torchrun on four processes: what each rank of a 2 x 2 mesh is given, as JSON lines."""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from loaders import TokenDataLoader, TokenDataset


def main(uri: str, folder: str) -> None:
    dataset = TokenDataset(uri, 64)
    before = TokenDataLoader(dataset, 4, True)  # torchrun's environment: all four are data-parallel
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    loaders = {
        "environment": before,
        "distributed": TokenDataLoader(dataset, 4, True),
        "dp": TokenDataLoader(dataset, 4, True, data_parallel_mesh=mesh["dp"]),
        "replicate shard": TokenDataLoader(dataset, 4, True, data_parallel_mesh=both),
    }
    found: dict[str, Any] = {}
    try:
        TokenDataLoader(dataset, 4, True, data_parallel_mesh=mesh)
    except ValueError as error:
        found["refused"] = str(error)
    for name, loader in loaders.items():
        rows = [batch["input_ids"][:, 0].tolist() for batch in islice(loader.repeat(), 30)]
        found[name] = {"rows": rows, "state": loader.state_dict(), "steps": len(loader)}
    found["place"] = {"rank": dist.get_rank(), "dp": mesh.get_local_rank("dp")}
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    # In the loop of an epoch nobody is left behind: all come to the barrier behind it.
    for _ in loaders["dp"]:
        pass
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
