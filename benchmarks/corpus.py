"""Real text that every machine has, as Parquet, and a tokenizer trained on it.

The text is the documentation and source of the standard library and of the installed packages. The
tokenizer is a byte-level BPE with GPT-2's split pattern, so the job can use its fast engine.
Both are made once: a folder that is complete is used again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from shards.errors import StokerError

CORPUS_BYTES = 50_000_000
CORPUS_FILES = 4
# Small enough that a job over a few MB of compressed Parquet still has several units to deal.
ROW_GROUP_BYTES = 2 * 2**20
VOCABULARY = 16_384
TRAINING_BYTES = 6_000_000
END_TOKEN = "<|endoftext|>"
# Prose first: a corpus of code alone would flatter no tokenizer.
SUFFIXES = (".md", ".rst", ".txt", ".py")
DOCUMENT_BYTES = (200, 1_000_000)
SCHEMA = pa.schema([("text", pa.large_string()), ("path", pa.string())])


@dataclass(frozen=True)
class Corpus:
    """Parquet files with columns `text` and `path`, and the UTF-8 bytes of text in them."""

    files: tuple[Path, ...]
    documents: int
    text_bytes: int


def default_roots() -> tuple[Path, ...]:
    """The folders of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(Path(paths[key]).resolve() for key in ("stdlib", "purelib")))


def make_corpus(
    folder: Path,
    *,
    target_bytes: int = CORPUS_BYTES,
    files: int = CORPUS_FILES,
    roots: Sequence[Path] | None = None,
) -> Corpus:
    """Write about `target_bytes` of text into `folder`, or open what an earlier call wrote there.

    Documents are in order of suffix, root and path, without duplicates and valid UTF-8, so the same
    machine gives the same bytes. A machine with less text gives what it has; StokerError when none.
    """
    asked = {"target_bytes": target_bytes, "files": files}
    known = _read_corpus(folder, asked)
    if known is not None:
        return known
    with _complete_or_absent(folder, "_corpus.json") as temporary:
        documents, text_bytes = _write_parquet(
            temporary, roots or default_roots(), target_bytes, files
        )
        names = sorted(path.name for path in temporary.glob("*.parquet"))
        if not names:
            raise StokerError(
                f"no text files below {', '.join(map(str, roots or default_roots()))}"
            )
        note = {"asked": asked, "files": names, "documents": documents, "text_bytes": text_bytes}
        (temporary / "_corpus.json").write_text(json.dumps(note, indent=1))
    return Corpus(tuple(folder / name for name in names), documents, text_bytes)


def train_tokenizer(
    folder: Path,
    corpus: Corpus,
    *,
    vocabulary: int = VOCABULARY,
    sample_bytes: int = TRAINING_BYTES,
) -> Path:
    """Train the tokenizer on a sample of `corpus`; `transformers.AutoTokenizer` loads `folder`."""
    if (folder / "tokenizer_config.json").exists():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_sample(corpus, sample_bytes), trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_TOKEN,
        "eos_token": END_TOKEN,
        "model_max_length": 10**9,
    }
    with _complete_or_absent(folder, "tokenizer.json") as temporary:
        tokenizer.save(str(temporary / "tokenizer.json"))
        (temporary / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return folder


def _read_corpus(folder: Path, asked: dict[str, int]) -> Corpus | None:
    try:
        note = json.loads((folder / "_corpus.json").read_text())
        files = tuple(folder / str(name) for name in note["files"])
    except (OSError, ValueError, KeyError):
        return None
    if note["asked"] != asked or not all(path.exists() for path in files):
        return None
    return Corpus(files, note["documents"], note["text_bytes"])


def _write_parquet(
    folder: Path, roots: Sequence[Path], target_bytes: int, files: int
) -> tuple[int, int]:
    documents = written = 0
    number = 0
    writer: pq.ParquetWriter | None = None
    group: list[tuple[str, str]] = []
    group_bytes = 0
    bar = tqdm(
        total=target_bytes, unit="B", unit_scale=True, desc="corpus", leave=False, disable=None
    )
    with bar:
        for text, path, size in _documents(roots):
            group.append((text, path))
            group_bytes += size
            documents += 1
            bar.update(size)
            full = written + group_bytes >= (number + 1) * target_bytes / files
            if full or group_bytes >= ROW_GROUP_BYTES:
                name = folder / f"{number:02d}.parquet"
                writer = writer or pq.ParquetWriter(name, SCHEMA, compression="zstd")
                written, group_bytes = written + group_bytes, 0
                _flush(writer, group)
            if full and writer is not None:
                writer.close()
                writer, number = None, number + 1
                if number == files:
                    break
    if group:
        name = folder / f"{number:02d}.parquet"
        writer = writer or pq.ParquetWriter(name, SCHEMA, compression="zstd")
        _flush(writer, group)
    if writer is not None:
        writer.close()
    return documents, written + group_bytes


def _flush(writer: pq.ParquetWriter, group: list[tuple[str, str]]) -> None:
    texts, paths = zip(*group, strict=True)
    writer.write_table(pa.table([pa.array(texts, pa.large_string()), paths], schema=SCHEMA))
    group.clear()


def _documents(roots: Sequence[Path]) -> Iterator[tuple[str, str, int]]:
    """Every distinct valid text file: its text, its path below its root, its UTF-8 bytes."""
    listed = [(*key, root) for root in roots for key in _text_files(root)]
    seen: set[bytes] = set()
    for _, path, root in sorted(listed):
        try:
            data = (root / path).read_bytes()
            text = data.decode()
        except (OSError, UnicodeDecodeError):
            continue
        digest = hashlib.sha256(data).digest()
        low, high = DOCUMENT_BYTES
        if low <= len(data) <= high and digest not in seen:
            seen.add(digest)
            yield text, path, len(data)


def _text_files(root: Path) -> Iterator[tuple[int, str]]:
    """(rank of the suffix, relative path); `site-packages` is a root of its own."""
    for folder, children, names in os.walk(root):
        children[:] = [c for c in children if c not in ("__pycache__", "site-packages")]
        for name in names:
            suffix = os.path.splitext(name)[1]
            if suffix in SUFFIXES:
                yield SUFFIXES.index(suffix), os.path.relpath(os.path.join(folder, name), root)


def _training_sample(corpus: Corpus, sample_bytes: int) -> Iterator[str]:
    """Documents spread over the whole corpus, about `sample_bytes` of UTF-8."""
    every = max(1, corpus.text_bytes // sample_bytes)
    number = 0
    for path in corpus.files:
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
            for text in batch.column("text"):
                if number % every == 0:
                    yield text.as_py()
                number += 1


@contextmanager
def _complete_or_absent(folder: Path, mark: str) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well.

    What lies there is removed only if the file `mark` says that it is ours.
    """
    if folder.exists() and not (folder / mark).exists() and any(folder.iterdir()):
        raise StokerError(f"{folder} holds other files than a {mark}: choose another output folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
