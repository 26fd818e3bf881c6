"""Hugging Face datasets: load_dataset, map(batched, num_proc), save_to_disk, as its docs say."""

from typing import Any

import pyarrow.compute as pc
from contract import Clock, Task, read_task
from datasets import load_dataset, load_from_disk
from transformers import AutoTokenizer


def tokenize(batch: dict[str, list[str]], tokenizer: Any, column: str) -> dict[str, Any]:
    """Ids of a batch of documents, each with its end token."""
    ids = tokenizer(batch[column], add_special_tokens=False)["input_ids"]
    return {"input_ids": [[*each, tokenizer.eos_token_id] for each in ids]}


def main(task: Task) -> None:
    """Runs it."""
    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(task.tokenizer)
    data = load_dataset(
        "parquet",
        data_files=task.files,
        columns=[task.column],
        split="train",
        cache_dir=str(task.output / "cache"),
    )
    data = data.map(
        tokenize,
        batched=True,
        num_proc=task.workers,
        remove_columns=data.column_names,
        fn_kwargs={"tokenizer": tokenizer, "column": task.column},
    )
    data.save_to_disk(str(task.output / "tokens"), num_proc=task.workers)
    clock.stop()
    tokens = ids_sum = 0
    for chunk in load_from_disk(str(task.output / "tokens")).data.column("input_ids").chunks:
        ids = chunk.flatten()
        tokens += len(ids)
        ids_sum += pc.sum(ids).as_py() or 0
    clock.result(tokens, ids_sum)


if __name__ == "__main__":
    main(read_task())
