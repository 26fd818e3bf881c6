"""`python -m shards inspect | verify | sample | gc URI`: look after a dataset without a GPU."""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from shards.dataset import Dataset, open_dataset
from shards.errors import DatasetError, StokerError
from shards.format import parse_shard
from shards.gc import collect_garbage
from shards.manifest import DocumentRules
from shards.tables import read_table
from shards.verify import verify
from shards.words import row_lines, rule_lines

_SHOWN = 5
_WIDEST = 200

_GC = """\
List what a dataset doesn't need: shards, receipts and rows set apart of plans that its manifest
doesn't name (--overwrite leaves them, so that readers of the old dataset go on), tables and
tokenizers of earlier manifests (each --append leaves some), plans of packs that were made for
those, and temporary files of writes that were cut short; on S3 uploads in parts that were never
ended, which no listing shows and which are paid for.

Nothing is deleted without --delete; after it, whoever opened an earlier generation fails when it
reads on. The progress of a job that isn't finished is kept unless you say --unfinished. While a job
is writing there, gc refuses. Files with names that Stoker doesn't write are never touched.

examples:
  python -m shards gc s3://tokens/v1
  python -m shards gc s3://tokens/v1 --delete
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except StokerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shards", description="Look after a token dataset, without a GPU."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, help_text in (
        ("inspect", _inspect, "totals, sources, tokenizer, provenance"),
        (
            "verify",
            _verify,
            "read everything and check every checksum; exit 1 names what is broken",
        ),
        ("sample", _sample, "decoded text of a few documents, control characters stripped"),
        ("gc", _gc, "list or delete the files that no manifest names"),
    ):
        command = commands.add_parser(
            name,
            help=help_text,
            description=_GC if name == "gc" else help_text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("uri", metavar="URI", help="s3://bucket/prefix or a path")
        command.set_defaults(run=run)
        if name == "inspect":
            command.add_argument("--json", action="store_true", help="print the manifest itself")
        if name == "sample":
            command.add_argument("-n", type=int, default=3, help="documents (default: %(default)s)")
            command.add_argument(
                "--seed", type=int, default=0, help="which ones (default: %(default)s)"
            )
            command.add_argument(
                "--characters", type=int, default=500, help="of each (default: %(default)s)"
            )
        if name == "gc":
            command.add_argument("--delete", action="store_true", help="delete what is listed")
            command.add_argument(
                "--unfinished",
                action="store_true",
                help="give up the job that was begun last and isn't finished; where there is no "
                "manifest at all, that is everything",
            )
    return parser


def _inspect(options: argparse.Namespace) -> None:
    dataset = open_dataset(options.uri)
    manifest = dataset.manifest
    if options.json:
        sys.stdout.write(manifest.to_json().decode())
        return
    info, counts = manifest.tokenizer, manifest.counts
    inputs = read_table(dataset.store, manifest.tables.inputs)
    print(f"{dataset.uri}  (format {manifest.format} {manifest.version}, id {dataset.id})")
    print(
        f"  tokens      {manifest.tokens:,} as {manifest.dtype}, documents {manifest.documents:,}"
    )
    print(f"  {'split':<12}{'source':<16}{'shards':>8}{'documents':>14}{'tokens':>18}{'bytes':>18}")
    for split, sources in manifest.totals.items():
        for source, one in sources.items():
            print(
                f"  {printable(split):<12}{printable(source):<16}{one.shards:>8,}"
                f"{one.documents:>14,}{one.tokens:>18,}{one.bytes:>18,}"
            )
    print(f"  tokenizer   {printable(info.name)}, vocabulary {info.vocab_size:,}")
    print(f"              sha256 {info.fingerprint}")
    for name, token in (("begin token", info.begin_token), ("end token", info.end_token)):
        if token or name == "end token":
            shown = f"{token.id} {printable(token.text)!r}" if token else "none is written"
            print(f"  {name:<12}{shown}")
    print(f"  specials    {info.special_tokens}: what a special token's text in a document became")
    print(f"  engine      {manifest.engine}: {printable(manifest.engine_reason)}")
    # A plan without rules isn't listed, yet its documents are counted too.
    rules = [manifest.rules.get(plan, DocumentRules()) for plan in manifest.plans]
    for number, line in enumerate(row_lines(counts, rules)):
        print(f"  {'' if number else 'rows':<12}{line}")
    print(f"  plans       {', '.join(manifest.plans)}")
    for plan, rule in manifest.rules.items():
        for line in rule_lines(rule):
            print(f"  rules       {plan}: {printable(line)}")
    print(f"  libraries   {', '.join(f'{k} {v}' for k, v in manifest.libraries.items())}")
    uris = inputs.column(inputs.schema.get_field_index("uri"))
    print(f"  inputs      {len(uris):,}")
    for uri in uris[:_SHOWN]:
        print(f"              {printable(uri.as_py())}")
    if len(uris) > _SHOWN:
        print(f"              and {len(uris) - _SHOWN:,} more, in {manifest.tables.inputs.name}")


def _verify(options: argparse.Namespace) -> None:
    print(verify(options.uri, show_progress=sys.stderr.isatty()))


def _sample(options: argparse.Namespace) -> None:
    dataset = open_dataset(options.uri)
    decode = _decoder(dataset)
    total = int(dataset.index.documents.sum())
    chosen = np.random.default_rng(options.seed).choice(
        total, size=max(0, min(options.n, total)), replace=False
    )
    starts = np.concatenate([[0], dataset.index.documents.cumsum()])
    for number in sorted(chosen.tolist()):
        shard = int(np.searchsorted(starts, number, side="right")) - 1
        content = parse_shard(pa.py_buffer(dataset.store.read(dataset.path(shard))))
        place = number - int(starts[shard])
        ids = content.tokens[content.offsets[place] : content.offsets[place + 1]]
        print(f"--- {dataset.path(shard)} document {place}, {len(ids):,} tokens")
        for name, column in zip(content.columns.schema.names, content.columns, strict=True):
            print(f"    {printable(name)}: {printable(str(column[place].as_py()))[:_WIDEST]}")
        print(printable(decode(ids.tolist()), keep="\n\t")[: options.characters])


def _gc(options: argparse.Namespace) -> None:
    garbage = collect_garbage(
        options.uri,
        delete=options.delete,
        unfinished=options.unfinished,
        show_progress=sys.stderr.isatty(),
    )
    for line in garbage.lines(options.uri, options.delete):
        print(printable(line))


def _decoder(dataset: Dataset) -> Callable[[list[int]], str]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise StokerError("sample needs the package tokenizers: pip install tokenizers") from error
    info = dataset.manifest.tokenizer
    try:
        tokenizer = Tokenizer.from_str(dataset.store.read(info.file).decode())
    except Exception as error:  # tokenizers raises no narrower class
        raise DatasetError(f"{dataset.uri}/{info.file} is no tokenizer: {error}") from error
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def printable(text: str, keep: str = "") -> str:
    """The text without anything that could steer a terminal."""
    return "".join(c for c in text if c in keep or unicodedata.category(c)[0] != "C")


if __name__ == "__main__":
    sys.exit(main())
