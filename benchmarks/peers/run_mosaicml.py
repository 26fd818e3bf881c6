"""MosaicML: an MDSWriter a process, then merge_index, as Streaming's docs write in parallel."""

from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from contract import Clock, Task, read_task
from no_torchvision import without_torchvision
from transformers import PreTrainedTokenizerFast

without_torchvision()

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import merge_index

BATCH = 256


def write(part: tuple[Sequence[str], str], task: Task) -> None:
    """Writes the documents of some files, in a process of its own."""
    files, out = part
    # By file: Streaming wants transformers below 5, which doesn't know every class in a config.
    file = f"{task.tokenizer}/tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, eos_token=task.end_token)
    with MDSWriter(out=out, columns={"tokens": "ndarray:uint32"}) as writer:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH, columns=[task.column]):
                texts = batch.column(0).to_pylist()
                for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                    writer.write({"tokens": np.array([*ids, tokenizer.eos_token_id], np.uint32)})


def main(task: Task) -> None:
    """Runs it."""
    clock = Clock()
    out = task.output / "tokens"
    parts = [
        (task.files[i :: task.workers], str(out / str(i)))
        for i in range(min(task.workers, len(task.files)))
    ]
    for _, folder in parts:
        Path(folder).mkdir(parents=True)
    with get_context("fork").Pool(len(parts)) as pool:
        pool.starmap(write, [(part, task) for part in parts])
    merge_index(str(out), keep_local=True)
    clock.stop()
    tokens = ids_sum = 0
    for sample in StreamingDataset(local=str(out), shuffle=False, batch_size=1):
        tokens += len(sample["tokens"])
        ids_sum += int(sample["tokens"].sum(dtype=np.uint64))
    clock.result(tokens, ids_sum)


if __name__ == "__main__":
    main(read_task())
