"""What the examples share, and yours takes the place of: a tiny model and their arguments."""

import json
import os
import zlib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shards.dataset import open_dataset


def arguments(description: str | None) -> ArgumentParser:
    """The arguments that every example has. `description`: a module's, how it is started too."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="URI", help="a token dataset")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="for checkpoints")
    parser.add_argument("--steps", type=int, default=20, help="of the optimizer, in all")
    parser.add_argument("--save-every", type=int, default=5, metavar="STEPS")
    parser.add_argument("--seq-len", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--batch-size", type=int, default=4, metavar="ROWS")
    return parser


class TinyForCausalLM(LlamaForCausalLM):
    """A Llama of two layers, the same random weights each time, that writes down what it was given.

    Each batch is a line of `OUTPUT/batches-rank0.jsonl`: its loss, a number for the content of each
    row, and whether it was for training. So two runs can be compared.
    """

    def __init__(self, data: str, output: Path) -> None:
        torch.manual_seed(0)
        vocabulary = open_dataset(data).manifest.tokenizer.vocab_size
        super().__init__(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                use_cache=False,
            )
        )
        output.mkdir(parents=True, exist_ok=True)
        rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
        self._log = output / f"batches-rank{rank}.jsonl"

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> Any:
        """As LlamaForCausalLM's."""
        output = super().forward(input_ids=input_ids, labels=labels, **kwargs)
        rows = [zlib.crc32(row.tobytes()) for row in input_ids.cpu().numpy()]
        line = {"training": self.training, "loss": output.loss.item(), "rows": rows}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        return output
