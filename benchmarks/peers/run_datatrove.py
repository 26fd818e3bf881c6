"""datatrove: ParquetReader and DocumentTokenizer in a LocalPipelineExecutor, a task a worker."""

from pathlib import Path

import numpy as np
from contract import Clock, Task, read_task
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main(task: Task) -> None:
    """Runs it."""
    clock = Clock()
    paths = [Path(file) for file in task.files]
    listed = task.output / "paths.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{path.name}\n" for path in paths))
    LocalPipelineExecutor(
        pipeline=[
            ParquetReader(str(paths[0].parent), paths_file=str(listed), text_key=task.column),
            DocumentTokenizer(
                str(task.output / "tokens"),
                tokenizer_name_or_path=f"{task.tokenizer}/tokenizer.json",
                eos_token=task.end_token,
                shuffle_documents=False,
            ),
        ],
        tasks=task.workers,
        workers=task.workers,
        logging_dir=str(task.output / "logs"),
    ).run()
    clock.stop()
    tokens = ids_sum = 0
    for file in (task.output / "tokens").glob("*.ds"):
        about = Path(f"{file}.metadata").read_text().splitlines()[0]
        width = int(about.partition("|")[2])
        ids = np.fromfile(file, np.dtype(f"u{width}"))
        tokens += len(ids)
        ids_sum += int(ids.sum(dtype=np.uint64))
    clock.result(tokens, ids_sum)


if __name__ == "__main__":
    main(read_task())
