"""Text MB/s of the tokenize job, beside its physical limit and beside its peers.

python -m benchmarks.tokenize [--input URI...] [--tokenizer NAME] [--json FILE] [--profile]

One run, one corpus. The limit is pyarrow's decode and gigatoken's encode of the same files in as
many processes as there are cores, and nothing else. Stoker is the whole command, at two sizes, so
that the difference of their times is its steady state; its slow engine and the peers get a smaller
part of the same text. Every contender runs as a command of its own, rounds are interleaved, medians
count, and everybody's tokens are compared: their number and the sum of their ids.

Without --input the text is this machine's documentation and source, varied as natural text varies
(see benchmarks/text.py); documents that hold a special token's text are left out of it, since peers
make control tokens of them. Peers run where `make peers` installed them.
"""

import os
import sys

# As in pipelines/tokenize.py: run by path, this file would hide the standard library's tokenize.
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.command import guarded
from benchmarks.contest import PEERS, Run, Text, cores, expected, run_limit, run_peer, run_stoker
from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.standings import LIMIT, STOKER, Standing, Standings
from benchmarks.text import file_text_bytes, read_documents, write_text
from benchmarks.where import profile
from pipelines.options import parse_size
from pipelines.tokenizer import load_tokenizer
from shards.errors import StokerError

CORPUS_BYTES = 200_000_000
# The smaller of Stoker's two sizes.
PART = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    chosen = make_parser().parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="stoker-text-") as folder:
            texts = prepare(chosen, Path(folder))
            if chosen.profile:
                print(profile(texts["all"]))
                return
            standings = compare(texts, chosen.rounds, chosen.peer_rounds, chosen.peers)
            print(standings.table())
            if chosen.json:
                chosen.json.write_text(json.dumps(standings.content(), indent=1) + "\n")

    return guarded("tokenize", work)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokenize", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", type=Path, help="Parquet files (None: made of this machine's text)")
    add("--text-column", default="text", help="column with the text")
    add("--tokenizer", help="name or folder (None: one trained on that text)")
    add("--folder", type=Path, default=Path("demo/tokenize"), help="what is made once lies here")
    add("--text-bytes", type=parse_size, default="2G", help="text to make, without --input")
    add("--peer-bytes", type=parse_size, default="40M", help="text for peers and the slow engine")
    add("--rounds", type=int, default=3, help="times the limit and Stoker are run")
    add("--peer-rounds", type=int, default=1, help="times peers and the slow engine are run")
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="which of them; or none")
    add("--json", type=Path, help="write everything measured here")
    add("--profile", action="store_true", help="instead: where the time of a unit goes")
    return parser


def prepare(chosen: argparse.Namespace, folder: Path) -> dict[str, Text]:
    """The texts: "all", the first "part" of it, and the little that the "few" slow ones get."""
    tokenizer = chosen.tokenizer
    if not (chosen.input and tokenizer):
        corpus = make_corpus(chosen.folder / "corpus", target_bytes=CORPUS_BYTES)
        tokenizer = tokenizer or str(train_tokenizer(chosen.folder / "tokenizer", corpus))
    if not Path(tokenizer).is_dir():
        raise StokerError(f"--tokenizer {tokenizer} is no folder: the peers need it as one")
    tokenizer = str(Path(tokenizer).resolve())
    column = chosen.text_column
    if chosen.input:
        files = [str(file.resolve()) for file in chosen.input]
        size = sum(file_text_bytes(file, column) for file in files)
    else:
        size = chosen.text_bytes
        (folder / "all").mkdir()
        files = write_text(folder / "all", read_documents(corpus.files, "text"), size, column)
    (folder / "few").mkdir()
    few = cut(files, column, chosen.peer_bytes, folder / "few", cores())
    parts = {"all": files, "part": first_files(files, column, size // PART), "few": few}
    return {name: make_text(these, column, tokenizer) for name, these in parts.items()}


def first_files(files: Sequence[str], column: str, wanted_bytes: int) -> list[str]:
    """As many of the first files as hold `wanted_bytes` of text, at least one."""
    taken: list[str] = []
    for file in files:
        if taken and wanted_bytes <= 0:
            break
        taken.append(file)
        wanted_bytes -= file_text_bytes(file, column)
    return taken


def cut(
    files: Sequence[str], column: str, wanted_bytes: int, folder: Path, parts: int
) -> list[str]:
    """The first `wanted_bytes` of text in `parts` files of equal size, one a worker."""
    documents: list[pa.LargeStringArray] = []
    for file in first_files(files, column, wanted_bytes):
        chunks = pq.read_table(file, columns=[column]).column(0).chunks
        documents.extend(chunk.cast(pa.large_string()) for chunk in chunks)
    found = pa.concat_arrays(documents)
    ends = pc.cumulative_sum(pc.binary_length(found)).to_numpy()
    size = min(wanted_bytes, int(ends[-1]))
    borders = [0, *(int(ends.searchsorted(size * i // parts)) + 1 for i in range(1, parts + 1))]
    made = []
    for number in range(parts):
        part = found[borders[number] : borders[number + 1]]
        path = folder / f"{number:02d}.parquet"
        pq.write_table(pa.table({column: part}), path, compression="zstd")
        made.append(str(path))
    return made


def make_text(files: Sequence[str], column: str, tokenizer: str) -> Text:
    """These files, with what they should come to."""
    loaded = load_tokenizer(tokenizer)
    assert loaded.end_text is not None, "asked for without an end token"
    tokens, ids_sum = expected(files, column, tokenizer)
    size = sum(file_text_bytes(file, column) for file in files)
    return Text(tuple(files), size, column, tokenizer, loaded.end_text, tokens, ids_sum)


def compare(
    texts: dict[str, Text], rounds: int, peer_rounds: int, peers: Sequence[str]
) -> Standings:
    """Runs every contender as often as asked, in turn."""
    everything, part, few = texts["all"], texts["part"], texts["few"]
    contenders: dict[str, tuple[int, Callable[[], Run]]] = {
        LIMIT: (rounds, lambda: run_limit(everything, cores())),
        STOKER: (rounds, lambda: run_stoker(everything, "gigatoken")),
        f"  a {PART}th of the text": (rounds, lambda: run_stoker(part, "gigatoken")),
        "Stoker, slow engine": (peer_rounds, lambda: run_stoker(few, "tokenizers")),
    }
    for peer in peers:
        contenders[PEERS[peer]] = (peer_rounds, lambda peer=peer: run_peer(peer, few, cores()))  # type: ignore[misc]
    standings = {name: Standing(name) for name in contenders}
    total = sum(times for times, _ in contenders.values())
    with tqdm(total=total, desc="tokenize", unit="run", leave=False, disable=None) as bar:
        for number in range(max(rounds, peer_rounds)):
            for name, (times, once) in contenders.items():
                if number < times and not standings[name].failed:
                    bar.set_description(name.strip())
                    standings[name].take(once)
                    bar.update()
    return Standings(tuple(standings.values()))


if __name__ == "__main__":
    sys.exit(main())
