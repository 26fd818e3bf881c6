"""Names, globs and prefixes -> the files they mean, each with size, etag and source label."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.saved import data_files
from shards.errors import StokerError
from shards.store import local_etag, open_store

DEFAULT_SOURCE = "default"

_LABEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = (".", "_")

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_EXTENSIONS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), "arrow"),
    **dict.fromkeys((".txt", ".text", ".md", ".rst", ".py"), "text"),
}


@dataclass(frozen=True, order=True, slots=True)
class Input:
    """A file to tokenize, as a listing shows it.

    Attributes:
        source: the label given with `--input LABEL=URI`.
        uri: absolute path, or `s3://bucket/key`.
        size: bytes.
        etag: changes when the content does. S3's; locally size and modification time.
        format: parquet, jsonl, arrow or text.
        compression: "", gzip, zstd or bz2.
    """

    source: str
    uri: str
    size: int
    etag: str
    format: str
    compression: str


def find_inputs(names: Iterable[str], format: str = "auto") -> list[Input]:
    """Every file that `names` mean, once, in order of source and uri.

    Args:
        names: `[label=]` and a file, folder, glob, s3 object, s3 prefix or s3 glob.
        format: parquet, jsonl, arrow, text, or auto: by each file's extension.

    Raises:
        StokerError: a name that means no file, a file of unknown format, or one under two labels.
        StoreError: a bucket that can't be listed.
    """
    found: dict[str, Input] = {}
    unknown: list[str] = []
    for name in names:
        source, uri = split_label(name)
        for path, size, etag in data_files(_expand(uri)):
            kind, compression = format_of(path, format)
            if not kind:
                unknown.append(path)
                continue
            new = Input(source, path, size, etag, kind, compression)
            old = found.setdefault(path, new)
            if old.source != source:
                raise StokerError(
                    f"{path} is under two labels, {old.source!r} and {source!r}: give it to one"
                )
    if unknown:
        raise StokerError(
            f"can't tell the format of {_some(sorted(set(unknown)))}: known extensions are "
            f"{' '.join(_EXTENSIONS)} (the text kinds also with {' '.join(_COMPRESSIONS)}); "
            "give --format, or name the files you mean"
        )
    return sorted(found.values())


def split_label(name: str) -> tuple[str, str]:
    """(`label`, `uri`) of an `--input` value; a path that exists is never taken apart."""
    found = _LABEL.fullmatch(name)
    if not found or os.path.exists(name) or (_MAGIC.search(name) and _any_local(name)):
        return DEFAULT_SOURCE, name
    return found[1], found[2]


def format_of(uri: str, format: str = "auto") -> tuple[str, str]:
    """(`format`, `compression`) of a file, by its name; format "" when its extension is unknown."""
    base, compression = uri, ""
    for suffix, name in _COMPRESSIONS.items():
        if uri.lower().endswith(suffix):
            base, compression = uri[: -len(suffix)], name
    kind = _EXTENSIONS.get(os.path.splitext(base)[1].lower(), "") if format == "auto" else format
    # These compress inside; a .parquet.gz is not a Parquet file.
    readable = kind and not (kind in ("parquet", "arrow") and compression)
    return (kind, compression) if readable else ("", "")


def _expand(uri: str) -> Iterator[tuple[str, int, str]]:
    """(`uri`, `size`, `etag`) of the files that `uri` means; at least one, or an error."""
    empty = True
    for entry in _expand_s3(uri) if uri.startswith("s3://") else _expand_local(uri):
        empty = False
        yield entry
    if not empty:
        return
    if _MAGIC.search(uri):
        raise StokerError(f"--input {uri}: the glob matches no file")
    if uri.startswith("s3://"):
        raise StokerError(f"--input {uri}: no object has this key, nor this prefix")
    if os.path.isdir(uri):
        raise StokerError(f"--input {uri}: the folder holds no file (hidden ones don't count)")
    raise StokerError(f"--input {uri}: no such file or folder")


def _expand_local(uri: str) -> Iterator[tuple[str, int, str]]:
    path = Path(uri.removeprefix("file://"))
    if path.is_file():
        files: Iterable[Path] = [path]
    elif path.is_dir():
        files = _walk(path)
    elif _MAGIC.search(str(path)):
        files = _glob(path)
    else:
        return
    for file in files:
        uri, stat = os.path.abspath(file), file.stat()
        if not _is_text(uri):
            # It could be written neither into the manifest nor into a message.
            shown = os.fsencode(uri).decode("utf-8", "backslashreplace")
            raise StokerError(f"--input {shown}: its name isn't UTF-8: rename it")
        yield uri, stat.st_size, local_etag(stat)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith(_HIDDEN))


def _glob(path: Path) -> Iterator[Path]:
    """The matching files; walks from the last folder before a magic part, hidden ones left out."""
    parts = Path(os.path.abspath(path)).parts
    fixed = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:fixed])
    if root.is_dir():
        # A pattern without ** reaches no deeper than its own parts.
        pattern = glob_regex("/".join(parts[fixed:]))
        depth = None if "**" in parts[fixed:] else len(parts) - fixed
        for file in _walk_to(root, depth):
            if pattern.fullmatch(file.relative_to(root).as_posix()):
                yield file


def _walk_to(root: Path, depth: int | None) -> Iterator[Path]:
    for folder, folders, files in os.walk(root, onerror=_refuse):
        level = len(Path(folder).relative_to(root).parts) + 1
        if depth is not None and level >= depth:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith(_HIDDEN))


def _any_local(pattern: str) -> bool:
    return next(_glob(Path(pattern)), None) is not None


def _refuse(error: OSError) -> None:
    """os.walk leaves out what it can't list unless told otherwise; a corpus must be whole."""
    raise StokerError(f"--input {error.filename}: can't be listed: {error.strerror}") from error


def _expand_s3(uri: str) -> Iterator[tuple[str, int, str]]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or _MAGIC.search(bucket):
        raise StokerError(f"--input {uri}: name a bucket: s3://bucket/key")
    magic = _MAGIC.search(key)
    matches = re.compile(re.escape(key.rstrip("/")) + "(/.*)?" if key else ".*", re.DOTALL)
    if magic:
        matches = glob_regex(key)
    prefix = key[: magic.start()] if magic else key.rstrip("/")
    for entry in open_store(f"s3://{bucket}").list(prefix):
        below = entry.key[len(prefix) :] if not magic else entry.key
        hidden = any(part.startswith(_HIDDEN) for part in below.split("/") if part)
        # A key that ends in / is how consoles draw an empty folder.
        named = entry.key == key
        if matches.fullmatch(entry.key) and (named or not (hidden or entry.key.endswith("/"))):
            yield f"s3://{bucket}/{entry.key}", entry.size, entry.etag


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The regex of a glob over names with `/`: `*` and `?` stay in a part, `**` crosses parts."""
    regex, i = "", 0
    while i < len(pattern):
        rest = pattern[i:]
        bracket = re.match(r"\[(!?)(\]?[^\]/]*)\]", rest)
        if rest.startswith("**/"):
            regex, i = regex + "(?:[^/]+/)*", i + 3
        elif rest.startswith("**"):
            regex, i = regex + ".*", i + 2
        elif bracket:
            chosen = bracket[2].replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
            regex += f"[{'^/' if bracket[1] else ''}{chosen.replace(']', chr(92) + ']')}]"
            i += bracket.end()
        else:
            regex += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            i += 1
    return re.compile(regex, re.DOTALL)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
