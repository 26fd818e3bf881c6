"""Plain Ray Data in Stoker's own venv: read_parquet, map_batches, transformers, write_parquet."""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from contract import Clock, Task, read_task


def encode(batch: pa.Table, column: str, name: str) -> pa.Table:
    """Ids of a batch of text, an end token behind each document."""
    # Kept in a module: Ray ships this function to its workers anew for every task.
    import transformers

    kept: dict[str, Any] = vars(transformers).setdefault("kept_by_this_script", {})
    tokenizer = kept.get(name) or transformers.AutoTokenizer.from_pretrained(name)
    kept[name] = tokenizer
    ids = tokenizer(batch.column(column).to_pylist(), add_special_tokens=False)["input_ids"]
    return pa.table({"input_ids": [[*each, tokenizer.eos_token_id] for each in ids]})


def main(task: Task) -> None:
    """Runs it."""
    ray.init(
        address="local",
        num_cpus=task.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    clock = Clock()
    ray.data.read_parquet(task.files).select_columns([task.column]).map_batches(
        encode,
        fn_kwargs={"column": task.column, "name": task.tokenizer},
        batch_size=256,
        batch_format="pyarrow",
    ).write_parquet(str(task.output / "tokens"))
    clock.stop()
    ray.shutdown()
    tokens = ids_sum = 0
    for chunk in pq.read_table(task.output / "tokens").column("input_ids").chunks:
        ids = chunk.flatten()
        tokens += len(ids)
        ids_sum += pc.sum(ids).as_py() or 0
    clock.result(tokens, ids_sum)


if __name__ == "__main__":
    main(read_task())
