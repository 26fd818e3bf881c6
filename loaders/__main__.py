"""`python -m loaders at URI`: look at what a loader gave, from its saved state."""

import argparse
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaders.at import as_json, as_lines, batch_at, dataset_of
from shards.errors import StokerError

_AT = """\
Name the documents in a batch: the shard, the number of the document in it, which of its tokens, and
the columns that were kept beside it. For the batch of a loss spike, say.

A loader's state names a place in the order; --step counts batches from there:
   0  the batch that comes next after the state was saved (the default)
  17  the 17th after that one
  -1  the last one that was delivered before the state was saved
If the state was saved at step 12,000 and the loss jumped at step 12,345, that is --step 345. Epochs
that end in between are counted over. No token is read, only where documents begin.

The state is what loader.state_dict() returned, as JSON: in a file, on standard input (-), or the
text itself. To get it out of a checkpoint:
  python -c 'import json, torch; print(json.dumps(torch.load("a.pt")["loader"]))' > state.json
"""
_EXAMPLES = """\
examples:
  python -m loaders at s3://tokens/v1 --state state.json --step 345
  python -m loaders at tokens/v1 --state state.json --step -1 --json | jq -r .path | sort | uniq -c
  python -m shards sample tokens/v1        # what documents look like
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        _at(options)
    except (StokerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loaders", description="Look at what a loader gave."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    at = commands.add_parser(
        "at",
        help="name the documents in a batch",
        description=_AT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    at.add_argument("uri", metavar="URI", help="s3://bucket/prefix or a path")
    at.add_argument("--state", required=True, help="a file with the state as JSON, -, or the JSON")
    at.add_argument(
        "--step", type=int, default=0, help="batches from there on (default: %(default)s)"
    )
    at.add_argument(
        "--global-batch",
        type=int,
        metavar="ROWS",
        help="rows of a batch over all ranks (default: as when the state was saved)",
    )
    at.add_argument(
        "--drop-last",
        action="store_true",
        help="the loader had drop_last=True (counts at the end of an epoch)",
    )
    at.add_argument("--json", action="store_true", help="one JSON object for each excerpt")
    return parser


def _at(options: argparse.Namespace) -> None:
    state = _state(options.state)
    dataset = dataset_of(options.uri, state)
    batch = batch_at(
        dataset,
        state,
        options.step,
        global_batch=options.global_batch,
        drop_last=options.drop_last,
    )
    for line in (as_json if options.json else as_lines)(dataset, batch):
        print(_printable(line))


def _state(where: str) -> Any:
    if where == "-":
        text = sys.stdin.read()
    elif where.lstrip().startswith("{"):
        text = where
    else:
        try:
            text = Path(where).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"--state {where}: {error}. It must be JSON: see --help for how to save it"
            ) from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"--state {where[:80]}: not JSON: {error}") from error


def _printable(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(c for c in text if unicodedata.category(c)[0] != "C")


if __name__ == "__main__":
    sys.exit(main())
