"""`python -m loaders COMMAND`: look at what a loader gave; plan how documents are packed."""

import argparse
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaders.at import as_json, as_lines, batch_at, dataset_of
from loaders.pack import make_packs
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

"tokens [10, 20) of 50" are the 11th to the 20th token of a document of 50, the end not included;
"rows [8, 16) of 351" likewise. With --json an excerpt is one object:
  epoch, position            of the row in it, over all ranks
  row, sample                its place in the batch; its number, as in dataset[sample]
  shard, path, document      row of the index; the shard's file; number of the document in it
  start, stop, tokens        tokens [start, stop) of the document, which has that many
  columns                    those kept beside the document

The state is what loader.state_dict() returned, as JSON: in a file, on standard input (-), or the
text itself. To get it out of a checkpoint:
  python -c 'import json, torch; print(json.dumps(torch.load("a.pt")["loader"]))' > state.json
"""
_PACK = """\
Plan which documents go together in rows of --seq-len tokens, none of them cut that fits in one row.
Reads where documents begin, no tokens, and writes a small file: 8 bytes for about a MiB of tokens.
"""
_PACK_EXAMPLES = """\
examples:
  python -m loaders pack s3://tokens/v1 --seq-len 4096
  python -m loaders pack s3://tokens/v1 --seq-len 4096 --pack-dir /shared/packs
then in Python:
  TokenDataset("s3://tokens/v1", 4096, packing="best_fit")
  TokenDataset("s3://tokens/v1", 4096, packing="best_fit", pack_dir="/shared/packs")
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
        options.run(options)
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
        prog="python -m loaders", description="Look at what a loader gave; plan its packs."
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
    at.add_argument(
        "--json", action="store_true", help="one JSON object for each excerpt (see above)"
    )
    at.add_argument("--pack-dir", metavar="DIR", help="the loader's pack_dir, if it had one")
    at.set_defaults(run=_at)
    pack = commands.add_parser(
        "pack",
        help="plan which documents go together in a row",
        description=_PACK,
        epilog=_PACK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pack.add_argument("uri", metavar="URI", help="s3://bucket/prefix or a path")
    pack.add_argument("--seq-len", type=int, required=True, help="tokens in a row")
    pack.add_argument("--split", default="train", help="(default: %(default)s)")
    pack.add_argument("--source", help="only the documents of this source (default: all)")
    pack.add_argument(
        "--packing",
        choices=["best_fit", "none"],
        default="best_fit",
        help="none: a document a row (default: %(default)s)",
    )
    pack.add_argument(
        "--pack-dir",
        metavar="DIR",
        help="a folder or uri to put the plan into, pack_dir= of TokenDataset then (default: "
        "beside the data, in packs/)",
    )
    pack.add_argument(
        "--rows",
        type=int,
        help="of a pack, which is read at once; more leave less padding (default: about 1 MiB, "
        "on small data fewer)",
    )
    pack.set_defaults(run=_pack)
    return parser


def _pack(options: argparse.Namespace) -> None:
    packed = make_packs(
        options.uri,
        options.seq_len,
        split=options.split,
        source=options.source,
        packing=options.packing,
        pack_dir=options.pack_dir,
        rows=options.rows,
        show_progress=sys.stderr.isatty(),
    )
    for line in packed.lines(options.pack_dir):
        print(_printable(line))


def _at(options: argparse.Namespace) -> None:
    state = _state(options.state)
    dataset = dataset_of(options.uri, state, options.pack_dir)
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
