"""What a person may choose, and the page `--help` prints."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.budget import Budget, parse_budget
from pipelines.document_options import DocumentOptions, add_document_options
from shards.errors import StokerError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("auto", "parquet", "jsonl", "arrow", "text")
TEXT_SPLITS = ("file", "line", "separator")
SPECIAL_TOKENS = ("text", "control")
ENGINES = ("auto", "gigatoken", "tokenizers")

MIB = 1 << 20
SHARD_BYTES = 128 * MIB
AUDIT = 1e-4
_LARGEST_AUDIT = 0.1

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}

EPILOG = """\
examples:
  one folder of Parquet files, on this machine
    pipelines/tokenize.py --input corpus/ --output tokens/v1 --tokenizer gpt2

  two labelled sources on S3, on a running Ray cluster
    ray job submit --working-dir . -- pipelines/tokenize.py \\
        --input web=s3://corpus/web/*.parquet code=s3://corpus/code/ \\
        --output s3://tokens/v1 --tokenizer meta-llama/Llama-3.2-1B

  JSON lines whose text lies in {"page": {"body": ...}}, at most 100 bad rows set apart
    pipelines/tokenize.py --input logs/*.jsonl.zst --text-column page.body \\
        --output tokens/logs --tokenizer ./my-tokenizer --max-bad-rows 100

  the same command each day, for the files that came since; readers of before are undisturbed
    pipelines/tokenize.py --input s3://corpus/daily/ --output s3://tokens/daily \\
        --tokenizer gpt2 --append

Run it again and it continues where it was stopped; run it after the end and it does nothing.
The result: python -m shards inspect URI | verify URI | sample URI | gc URI

Where it runs: it joins the Ray cluster that RAY_ADDRESS names, that runs on this machine, or whose
job it is; without one it starts Ray here and stops it at the end. A cluster with token
authentication needs the token in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH names, or in
~/.ray/auth_token. S3 uses the usual AWS credentials and AWS_ENDPOINT_URL.
STOKER_DEBUG=1 shows the traceback of an error.
"""


@dataclass(frozen=True)
class ReadOptions:
    """How a unit's bytes become rows.

    Attributes:
        columns: names and types of columns that come with each document; see `read.column_types`.
        separator: what ends a document of a text file where `text_split` is separator.
        longest: bytes of text; a longer document is set apart. None: whatever can be read.
    """

    text_column: str = "text"
    text_split: str = "file"
    columns: pa.Schema | None = None
    separator: str = ""
    longest: int | None = None

    @property
    def ending(self) -> bytes:
        """What ends a document of a text file; nothing where the file is one document."""
        return {"file": b"", "line": b"\n"}.get(self.text_split, self.separator.encode())


@dataclass(frozen=True, kw_only=True)
class Options(DocumentOptions):
    """What a tokenize job is asked to do; the fields are the command's options of the same name.

    Sizes are bytes. `unit_bytes=None` lets the plan choose. `max_bad_rows` is a count, or as a
    float a share. With `dry_run` the job only says what it would do.

    Raises:
        StokerError: a value that the command would refuse.
    """

    inputs: tuple[str, ...]
    output: str
    tokenizer: str
    format: str = "auto"
    text_column: str = "text"
    text_split: str = "file"
    separator: str = ""
    special_tokens: str = "text"
    engine: str = "auto"
    max_bad_rows: Budget = 0
    unit_bytes: int | None = None
    shard_bytes: int = SHARD_BYTES
    overwrite: bool = False
    audit: float = AUDIT
    append: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("format", FORMATS),
            ("text_split", TEXT_SPLITS),
            ("special_tokens", SPECIAL_TOKENS),
            ("engine", ENGINES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise StokerError(f"{name} is {value!r}: choose one of {', '.join(allowed)}")
        if self.append and self.overwrite:
            raise StokerError("append keeps what the output holds, overwrite replaces it: choose")
        if not self.inputs:
            raise StokerError("no inputs: name at least one file, folder, glob or s3:// uri")
        if (self.text_split == "separator") != bool(self.separator):
            raise StokerError(
                f"text_split is {self.text_split!r} and separator {self.separator!r}: a separator "
                "is needed where text_split is 'separator', and nowhere else"
            )
        share = isinstance(self.max_bad_rows, float)
        if self.max_bad_rows < 0 or (share and self.max_bad_rows >= 1):
            raise StokerError(
                f"max_bad_rows is {self.max_bad_rows}: it must be a count, or a share below 1.0"
            )
        if self.unit_bytes is not None and self.unit_bytes < 1:
            raise StokerError(f"unit_bytes is {self.unit_bytes}: it must be positive")
        if not 0 <= self.audit <= _LARGEST_AUDIT:
            raise StokerError(
                f"audit is {self.audit}: a share of documents from 0 to {_LARGEST_AUDIT}; to "
                "have all of them encoded by tokenizers, choose the engine tokenizers"
            )
        if self.shard_bytes < 1:
            raise StokerError(f"shard_bytes is {self.shard_bytes}: it must be positive")
        self.check_documents(self.text_column)

    @property
    def reading(self) -> ReadOptions:
        """What the reader needs to know, but for the columns' types: they stand in the files."""
        return ReadOptions(self.text_column, self.text_split, separator=self.separator)


def parse_size(text: str) -> int:
    """Bytes in `text`: a number with an optional suffix k, M, G (powers of ten), Ki, Mi, Gi, B.

    Raises:
        ValueError: not such a number, or below one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ki|mi|gi|k|m|g|)b?\s*", text.lower())
    if not found:
        raise ValueError(f"{text!r} is not a size: write for example 67108864, 64MiB or 1.5GB")
    size = int(float(found[1]) * _UNITS[found[2]])
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return size


def show_size(size: float) -> str:
    """`size` bytes for people, in powers of 1024: `128 MiB`, `0.9 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.4g} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line (default: this process's); exits with 2 when it is wrong."""
    chosen = vars(make_parser().parse_args(arguments))
    chosen["inputs"] = tuple(chosen.pop("input"))
    chosen["keep_columns"] = tuple(chosen["keep_columns"])
    return Options(**chosen)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `pipelines/tokenize.py`."""
    parser = argparse.ArgumentParser(
        prog="pipelines/tokenize.py",
        description="Tokenize Parquet, Arrow, JSON lines or text to a token dataset, exactly once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_input(parser.add_argument_group("what to read"))
    _add_encoding(parser.add_argument_group("how to encode"))
    add_document_options(parser.add_argument_group("what becomes of documents"))
    _add_output(parser.add_argument_group("what to write"))
    return parser


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="[LABEL=]URI",
        help="files, folders, globs (* in a name, ** over folders), s3:// objects, prefixes and "
        "globs; LABEL names the source (default: default). Hidden files and names beginning with "
        "_ are left out of folders and globs",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="auto: by extension: .parquet .pq; .arrow .arrows .feather .ipc; .jsonl .ndjson; .txt "
        ".text .md .rst .py; the last two kinds also with .gz .zst .bz2. A folder that datasets' "
        "save_to_disk wrote is read as its Arrow files (default: auto)",
    )
    group.add_argument(
        "--text-column",
        default="text",
        metavar="NAME",
        help="column or JSON field with the text; a dot reaches into a nested one (default: text)",
    )
    group.add_argument(
        "--text-split",
        choices=TEXT_SPLITS,
        default="file",
        help="text files: one document a file, one a line, or what lies between separators "
        "(default: file)",
    )
    group.add_argument(
        "--separator",
        default="",
        type=_unescaped,
        metavar="TEXT",
        help="what ends a document with --text-split separator, for example '<|endoftext|>' or "
        r"'\n\n'; \n \r \t \0 and \\ are understood. It belongs to no document (default: none)",
    )
    group.add_argument(
        "--max-bad-rows",
        type=_budget,
        default=0,
        metavar="N",
        help="malformed rows that may be set apart under quarantine/: a count, above which the job "
        "fails at once, or a share of all rows read (0.1%%, 0.001), which is judged when all units "
        "are done; a unit with over 10,000 bad rows, and most of its rows bad, fails at once all "
        "the same. No dataset appears then; what is done stays done, for a larger N (default: 0)",
    )


def _add_encoding(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tokenizer",
        required=True,
        metavar="NAME",
        help="Hugging Face name, folder, or path of a tokenizer.json",
    )
    group.add_argument(
        "--special-tokens",
        choices=SPECIAL_TOKENS,
        default="text",
        help="what a special token's own text in a document becomes. text: ordinary tokens, so "
        "that no document can forge one; control: the special token (default: text)",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: gigatoken where it is proved equal to tokenizers, else tokenizers; naming "
        "gigatoken makes it an error where it is not (default: auto)",
    )
    group.add_argument(
        "--audit",
        type=float,
        default=AUDIT,
        metavar="SHARE",
        help="share of the documents that gigatoken encoded, drawn at random but for every run "
        "alike, that tokenizers encodes again; one that differs fails the job. Documents above "
        f"1MiB are passed over (default: {AUDIT:g})",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output", required=True, metavar="URI", help="folder or s3://bucket/prefix"
    )
    group.add_argument(
        "--shard-bytes",
        type=_size,
        default=SHARD_BYTES,
        metavar="SIZE",
        help="token bytes a shard holds at most, unless one document is longer (default: 128MiB)",
    )
    group.add_argument(
        "--unit-bytes",
        type=_size,
        default=None,
        metavar="SIZE",
        help="input bytes of a work unit: what is done again after a crash "
        "(default: a 64th of the input, within 4MiB and 256MiB)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the dataset that the output holds: its manifest is switched at the end, its "
        "files stay until `python -m shards gc` (default: refuse)",
    )
    group.add_argument(
        "--append",
        action="store_true",
        help="add the inputs that the output's dataset doesn't hold yet, after all that it holds; "
        "same tokenizer, end token, --special-tokens and kept columns (default: refuse)",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, with sizes and an estimate of the time from a sample that "
        "is encoded here; write nothing (default: do it)",
    )


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _unescaped(text: str) -> str:
    meanings = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}
    return re.sub(r"\\([nrt0\\])", lambda found: meanings[found[1]], text)


def _budget(text: str) -> Budget:
    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
