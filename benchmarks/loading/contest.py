"""The rounds: local ones interleaved among processes that stay, those from S3 cold, one by one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.loading.delay import delayed
from benchmarks.loading.driver import Contender, Entry
from benchmarks.loading.entries import TOKENS, absent
from benchmarks.loading.standings import Round, Standing, Standings
from benchmarks.loading.tree import Peaks
from benchmarks.s3_server import S3Server
from benchmarks.synthetic import flatten, make_tokens
from shards.errors import StokerError

BUCKET = "load"
RESUME_AT = 0.9
# boto3's newer defaults ask of a ranged GET what this server answers for whole objects.
_PLAIN = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


@dataclass(frozen=True)
class Data:
    """The same ids for everybody, each in its own format under `folder / NAME`.

    Attributes:
        tokens: a multiple of rows * seq_len, so that nobody has a remainder to leave out.
        ids_sum: of all of them.
    """

    folder: Path
    flat: str
    tokens: int
    ids_sum: int
    rows: int
    seq_len: int
    dtype: str = "uint16"

    @property
    def bytes(self) -> int:
        return self.tokens * np.dtype(self.dtype).itemsize

    def task(self, entry: Entry, base: str | None = None) -> dict[str, Any]:
        """What an entry's process is told; `base`: where the data is, if not on this disk."""
        return {
            "flat": self.flat,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "data": f"{base or self.folder}/{entry.data}",
            "rows": self.rows,
            "seq_len": self.seq_len,
        }


@dataclass(frozen=True)
class Effort:
    """How much is measured: `rounds` of `seconds`, and how often each is opened anew."""

    rounds: int
    seconds: float
    openings: int


def make_data(folder: Path, tokens: int, rows: int, seq_len: int) -> Data:
    """Random ids as a token dataset and as one file; `folder` is what an S3 server may serve."""
    batch = rows * seq_len
    tokens = max(1, tokens // batch) * batch
    objects = folder / BUCKET
    objects.mkdir(parents=True)
    flat = flatten(make_tokens(objects / TOKENS, tokens), folder.with_name("tokens.bin"))
    ids_sum = int(np.memmap(flat, dtype=Data.dtype, mode="r").sum(dtype=np.int64))
    return Data(objects, flat, tokens, ids_sum, rows, seq_len)


class Field:
    """The entries and what became of each; a peer that fails is told, and the others go on."""

    def __init__(self, entries: Sequence[Entry], data: Data) -> None:
        self.data = data
        self.entries = list(entries)
        self.standings = [Standing(entry.name, failed=absent(entry) or "") for entry in entries]
        self._prepare()

    def running(self) -> Iterator[tuple[Entry, Standing]]:
        """Those that have not failed so far."""
        for entry, standing in zip(self.entries, self.standings, strict=True):
            if not standing.failed:
                yield entry, standing

    @contextmanager
    def told(self, entry: Entry, standing: Standing) -> Iterator[None]:
        """A failure in the block is the entry's; Stoker's and the limit's own are raised."""
        try:
            yield
        except StokerError as error:
            if entry.ours:
                raise StokerError(f"{entry.name}: {error}") from error
            standing.failed = str(error)

    def _prepare(self) -> None:
        """Peers' data from the same ids, once for all entries that read it."""
        for entry, standing in self.running():
            output = self.data.folder / entry.data
            if not entry.data or output.exists():
                continue
            with self.told(entry, standing):
                output.mkdir()
                try:
                    with Contender(entry, self.data.task(entry)) as contender:
                        contender.ask("prepare", output=str(output), patience=1800)
                except BaseException:
                    shutil.rmtree(output)
                    raise


def compare_local(entries: Sequence[Entry], data: Data, effort: Effort) -> Standings:
    """All entries on local files, their rounds interleaved."""
    field = Field(entries, data)
    bar = _bar("local files", len(entries) * (effort.rounds + effort.openings + 2))
    with bar, ExitStack() as stack:
        states = _checked(field, bar.update)
        _opened(field, states, effort.openings, bar.update)
        opened: dict[str, Contender] = {}
        for entry, standing in field.running():
            with field.told(entry, standing):
                one = stack.enter_context(Contender(entry, data.task(entry)))
                standing.first_s.append(_open(one, standing))
                opened[entry.name] = one
            bar.update()
        for _ in range(effort.rounds):
            for entry, standing in field.running():
                with field.told(entry, standing):
                    _round(opened[entry.name], standing, effort.seconds, endless=True)
                bar.update()
    return Standings(tuple(field.standings))


def compare_s3(
    entries: Sequence[Entry],
    data: Data,
    effort: Effort,
    server: S3Server,
    latencies_ms: Sequence[float],
) -> Iterator[Standings]:
    """All entries on S3, a standing a latency. Every round is a new process without a cache."""
    states: dict[str, Any] | None = None
    for latency in latencies_ms:
        field = Field(entries, data)
        total = len(entries) * effort.rounds * 2 + (len(entries) if states is None else 0)
        with _bar(f"S3 +{latency:g} ms", total) as bar, delayed(server.endpoint, latency) as near:
            environment = {**server.env, **_PLAIN, "AWS_ENDPOINT_URL": near}
            environment["S3_ENDPOINT_URL"] = near
            where = (f"s3://{BUCKET}", environment)
            if states is None:
                # What an epoch holds doesn't depend on the latency.
                states = _checked(field, bar.update, where)
            for _ in range(effort.rounds):
                for entry, standing in field.running():
                    with (
                        field.told(entry, standing),
                        Contender(entry, data.task(entry, where[0]), environment) as one,
                    ):
                        standing.first_s.append(_open(one, standing))
                        _round(one, standing, effort.seconds, endless=False)
                    bar.update()
                _opened(field, states, 1, bar.update, where)
        yield Standings(tuple(field.standings), latency)


_Where = tuple[str | None, Mapping[str, str] | None]


def _checked(
    field: Field, done: Callable[[], object], where: _Where = (None, None)
) -> dict[str, Any]:
    """What an epoch of each holds, and the state from which each is resumed."""
    data, states = field.data, {}
    base, environment = where
    for entry, standing in field.running():
        with (
            field.told(entry, standing),
            Contender(entry, data.task(entry, base), environment) as one,
        ):
            said = one.ask("epoch", patience=900)
            standing.told = _told(said, data)
            states[entry.name] = one.ask("state", at=RESUME_AT, patience=900)["state"]
        done()
    return states


def _told(said: Mapping[str, Any], data: Data) -> str:
    """Whether an epoch was every token once, as far as its sum can tell."""
    if said["tokens"] != data.tokens:
        return f"OTHER: {said['tokens']:,} tokens an epoch, of {data.tokens:,}"
    if said["ids_sum"] not in (0, data.ids_sum):
        return "OTHER ids than the source's"
    return "equal" if said["ids_sum"] else "not looked at"


def _opened(
    field: Field,
    states: Mapping[str, Any],
    times: int,
    done: Callable[[], object],
    where: _Where = (None, None),
) -> None:
    """Resumed at 90 % of the epoch, each time in a new process."""
    base, environment = where
    for _ in range(times):
        for entry, standing in field.running():
            state = states.get(entry.name)
            if state is not None:
                with (
                    field.told(entry, standing),
                    Contender(entry, field.data.task(entry, base), environment) as one,
                ):
                    standing.resume_s.append(one.ask("open", state=state, patience=900)["seconds"])
            done()


def _open(one: Contender, standing: Standing) -> float:
    said = one.ask("open", state=None)
    standing.gives, standing.version = said["gives"], one.version
    return float(said["seconds"])


def _round(one: Contender, standing: Standing, seconds: float, *, endless: bool) -> None:
    with Peaks(one.pid) as seen:
        said = one.ask("round", seconds=seconds, endless=endless)
    said.pop("over")
    standing.rounds.append(
        Round(
            **said,
            cpu_s=seen.cpu_s,
            rss=seen.rss,
            threads=seen.threads,
            processes=seen.processes,
        )
    )


def _bar(what: str, total: int) -> tqdm[Any]:
    return tqdm(total=total, desc=what, unit="run", leave=False, disable=None)
