"""litData: optimize() with TokensLoader over files, as its docs prepare text for pretraining."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from contract import Clock, Task, read_task

TASK = read_task()
# Its default cache lies in a shared folder, which it empties: files of others were seen to go.
os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(TASK.output / "cache")
os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(TASK.output / "data")

from litdata import TokensLoader, optimize
from transformers import AutoTokenizer

CHUNK_TOKENS = 2049 * 8012


def tokenize(file: str, tokenizer: Any, column: str) -> Iterator[torch.Tensor]:
    """Ids of each document of a file, with its end token."""
    for batch in pq.ParquetFile(file).iter_batches(batch_size=8192, columns=[column]):
        for text in batch.column(0).to_pylist():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            yield torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int32)


def main(task: Task) -> None:
    """Runs it."""
    clock = Clock()
    optimize(
        fn=partial(
            tokenize,
            tokenizer=AutoTokenizer.from_pretrained(task.tokenizer),
            column=task.column,
        ),
        inputs=task.files,
        output_dir=str(task.output / "tokens"),
        chunk_size=CHUNK_TOKENS,
        num_workers=task.workers,
        item_loader=TokensLoader(),
    )
    clock.stop()
    tokens = ids_sum = 0
    for file in (task.output / "tokens").glob("*.bin"):
        # uint32 items, then items + 1 uint32 offsets, then the items' ids.
        data = np.fromfile(file, np.uint32)
        items = int(data[0])
        ids = data[2 + items :]
        tokens += len(ids)
        ids_sum += int(ids.sum(dtype=np.uint64))
    clock.result(tokens, ids_sum)


if __name__ == "__main__":
    main(TASK)
