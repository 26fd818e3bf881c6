"""Faults put in on purpose, one each, and the same loop without it: the report's positive controls.

Each is a pair of runs that differ in one thing, small enough that a laptop keeps up with the run
that has no fault. The data is made here: random ids, and a few MB of text that every machine has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.corpus import make_corpus, train_tokenizer
from benchmarks.starvation.cards.accelerator import Batch, EmulatedAccelerator, Node
from benchmarks.starvation.cards.exchange import Exchange, Ranks
from benchmarks.starvation.cards.profiles import PROFILES, Profile
from benchmarks.starvation.checks.disturbances import (
    COLLECT_S,
    SAVE_EVERY,
    SAVE_S,
    Collecting,
    Saving,
)
from benchmarks.starvation.contenders import (
    Contender,
    InlineTokenization,
    PaddedRows,
    ResidentBatch,
    Stoker,
    find_units,
)
from benchmarks.starvation.explain.causes import (
    CHECKPOINT,
    COMMUNICATION,
    FETCH,
    GC,
    H2D,
    HOST,
    PADDING,
    PREP,
    STRAGGLER,
    WORKERS,
)
from benchmarks.starvation.loop.measure import Plan, record, unthrottled
from benchmarks.starvation.loop.recording import SPAN, Recording
from benchmarks.synthetic import make_tokens
from pipelines.options import ReadOptions
from pipelines.tokenizer import load_tokenizer

ROWS, SEQ_LEN = 8, 256
STEP_S = 0.04
RANKS, LATE_RANK, LATE_S = 8, 3, 0.1
WARMUP = 8
SECONDS = 120.0
# Of Stoker's data: more than `STREAMED` keeps in memory, in blocks so small that one thread which
# waits for each answer cannot keep up.
TOKENS = 2**20
STREAMED = {"lanes": 8, "num_workers": 1, "prefetch_bytes": 2**19}
STREAMED_STEP_S = 0.02
LATENCY_MS = 200.0
TEXT_BYTES, VOCABULARY, TRAINING_BYTES = 2_000_000, 1000, 300_000


@dataclass(frozen=True)
class Side:
    """One of a control's two runs: what feeds which card, in how many ranks.

    `late_s`: how long the loop of rank `LATE_RANK` sleeps after each step. `between`: what else the
    loop does after a step, whose number from 1 it gets; `marked`: the cause it marks that as.
    """

    contender: Contender
    profile: Profile
    node: Node = field(default_factory=Node)
    ranks: int = 1
    late_s: float = 0.0
    between: Callable[[int], None] | None = None
    marked: str | None = None
    time_scale: float = 1.0

    def run(self, steps: int) -> list[Recording]:
        """Train for `steps` behind the warm-up; a recording for each rank."""
        plan = Plan(steps=steps, warmup=WARMUP, seconds=SECONDS)
        if self.ranks == 1:
            return [self._train(plan, 0, None)]
        together = Ranks(self.ranks)
        return in_threads(
            [partial(self._train, plan, rank, together.member(rank)) for rank in range(self.ranks)]
        )

    def _train(self, plan: Plan, rank: int, exchange: Exchange | None) -> Recording:
        late_s = self.late_s if rank == LATE_RANK else 0.0

        marks: list[tuple[str, int, int]] = []

        def on_step(number: int) -> None:
            if late_s:
                time.sleep(late_s)
            if self.between is not None:
                began = time.perf_counter_ns()
                self.between(number)
                if self.marked:
                    marks.append((self.marked, began, time.perf_counter_ns()))

        accelerator = EmulatedAccelerator(
            self.profile, time_scale=self.time_scale, node=self.node, exchange=exchange
        )
        with closing(accelerator), self.contender.ready():
            recording, batches = record(self.contender.open, accelerator, plan, on_step)
            recording = replace(recording, timeline=self.contender.timeline(), rank=rank)
            del batches
        marked = np.array(marks, dtype=SPAN)
        return replace(recording, spans=np.concatenate([recording.spans, marked]))


@dataclass(frozen=True)
class Fault:
    """A control: the cause that `faulty` adds to `clean`; without `expected` it adds nothing."""

    name: str
    called: str
    injected: str
    expected: str | None
    clean: Side
    faulty: Side


class Material:
    """What the faults are made of, in `folder`; each part is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def tokens(self) -> str:
        """A token dataset of random ids."""
        return make_tokens(self.folder / "tokens", TOKENS)

    @cached_property
    def text(self) -> tuple[str, ...]:
        """Parquet files with documents."""
        corpus = make_corpus(self.folder / "corpus", target_bytes=TEXT_BYTES, files=2)
        return tuple(str(file) for file in corpus.files)

    @cached_property
    def tokenizer(self) -> str:
        """The folder of a HF tokenizer trained on them."""
        corpus = make_corpus(self.folder / "corpus", target_bytes=TEXT_BYTES, files=2)
        folder = self.folder / "tokenizer"
        return str(
            train_tokenizer(folder, corpus, vocabulary=VOCABULARY, sample_bytes=TRAINING_BYTES)
        )

    @cached_property
    def lines(self) -> str:
        """A text file with the first lines of the documents, empty ones too: short rows."""
        path = self.folder / "lines.txt"
        with path.open("w") as file:
            for batch in self._documents():
                for line in batch.splitlines()[:200]:
                    file.write(f"{line}\n")
        return str(path)

    def _documents(self) -> Iterator[str]:
        import pyarrow.parquet as pq

        for name in self.text:
            yield from pq.read_table(name, columns=["text"])["text"].to_pylist()

    def inline(self, rows: int, seq_len: int, workers: int) -> InlineTokenization:
        """The documents tokenized inline, in batches of `rows` x `seq_len`."""
        made = load_tokenizer(self.tokenizer)
        assert made.end_id is not None
        units = find_units(self.text, workers)
        return InlineTokenization(units, made.blob, made.end_id, seq_len, rows, workers)


def card(step_s: float, slots: int = ROWS * SEQ_LEN) -> Profile:
    """One that computes `slots` token positions in `step_s`, and no optimizer."""
    return replace(
        PROFILES["h100-124m"],
        name="control",
        title=f"{1000 * step_s:.1f} ms for {slots} tokens",
        step_s=step_s,
        slots=slots,
        parameters=0,
    )


def resident(rows: int = ROWS, seq_len: int = SEQ_LEN) -> ResidentBatch:
    """One batch of zeros."""
    ids = torch.zeros(rows, seq_len, dtype=torch.int64)
    return ResidentBatch({"input_ids": ids, "labels": ids})


def clean(material: Material) -> Fault:
    """Nothing at all."""
    side = Side(Stoker(material.tokens, SEQ_LEN, ROWS), card(STEP_S))
    return Fault("clean", "nothing", "nothing", None, side, side)


def latency(material: Material) -> Fault:
    """A store that answers late, and a loader that was given one thread and little memory."""
    far, near = (
        Stoker(material.tokens, SEQ_LEN, ROWS, options=STREAMED, latency_ms=milliseconds)
        for milliseconds in (LATENCY_MS, 0.0)
    )
    profile = card(STREAMED_STEP_S)
    injected = f"S3 with {LATENCY_MS:g} ms to the first byte"
    return Fault("latency", "I/O latency", injected, FETCH, Side(near, profile), Side(far, profile))


def preprocessing(material: Material) -> Fault:
    """Tokenization in the loader, by one worker that is asked for 2.5 times what it can."""
    rows, seq_len = 32, 512
    job = material.inline(rows, seq_len, workers=1)
    profile = card(0.4 * rows * seq_len / unthrottled(job.open(), seconds=1.0), rows * seq_len)
    injected = "the text tokenized inline by HF tokenizers, 1 worker"
    sides = Side(resident(rows, seq_len), profile), Side(job, profile)
    return Fault("preprocessing", "heavy preprocessing", injected, PREP, *sides)


def slow_worker(material: Material) -> Fault:
    """One of two workers pauses in each of its batches."""
    job, slow = (material.inline(ROWS, SEQ_LEN, workers=2) for _ in range(2))
    slow.slow_worker_s = 6 * STEP_S
    injected = f"one of 2 workers pauses {1000 * slow.slow_worker_s:g} ms in each batch"
    sides = Side(job, card(STEP_S)), Side(slow, card(STEP_S))
    return Fault("slow worker", "too few workers", injected, WORKERS, *sides)


def slow_link(material: Material) -> Fault:
    """A link on which a batch travels for two steps."""
    return _link("slow link", "a link of {:.2f} MB/s", Node(h2d_bytes_per_s=_link_rate()))


def pageable(material: Material) -> Fault:
    """The same by memory that is not page-locked, on a link that is twice as fast."""
    node = Node(h2d_bytes_per_s=2 * _link_rate(), pageable=True)
    return _link("pageable memory", "pageable memory, a link of {:.2f} MB/s", node)


def straggler(material: Material) -> Fault:
    """A rank that sleeps, among others that don't."""
    side = Side(resident(), card(STEP_S), ranks=RANKS)
    injected = f"rank {LATE_RANK} of {RANKS} sleeps {1000 * LATE_S:g} ms a step"
    late = replace(side, late_s=LATE_S)
    return Fault("straggler", "stragglers and barriers", injected, STRAGGLER, side, late)


def network(material: Material) -> Fault:
    """Ranks that exchange data for as long as they compute."""
    fast = Side(resident(), card(STEP_S), ranks=RANKS)
    slow = replace(fast, profile=replace(fast.profile, communication_s=STEP_S))
    injected = f"{RANKS} ranks exchange data for {1000 * STEP_S:g} ms a step"
    return Fault("network", "network bandwidth", injected, COMMUNICATION, fast, slow)


def checkpoint(material: Material) -> Fault:
    """A loop that stands still while it saves."""
    side = Side(resident(), card(STEP_S))
    save = Saving(material.folder / "checkpoint.pt")
    injected = f"a blocking save of {1000 * SAVE_S:g} ms every {SAVE_EVERY} steps"
    saving = replace(side, between=save, marked=CHECKPOINT)
    return Fault("checkpoint", "checkpoints", injected, CHECKPOINT, side, saving)


def garbage(material: Material) -> Fault:
    """Python's collector, which has many objects to look at."""
    side = Side(resident(), card(STEP_S))
    injected = f"full collections of garbage, {1000 * COLLECT_S:g} ms and more a step"
    collecting = replace(side, between=Collecting())
    return Fault("garbage", "garbage collection", injected, GC, side, collecting)


def small_batch(material: Material) -> Fault:
    """A batch so small that launching its step takes longer than computing it."""
    node = Node(host_busy_ms=STEP_S * 1000 / 2)
    sides = Side(resident(), card(STEP_S), node), Side(resident(1, 16), card(STEP_S), node)
    injected = f"batches of 1 x 16 tokens, {node.host_busy_ms:g} ms to launch a step"
    return Fault("small batch", "small batches, launch-bound", injected, HOST, *sides)


def padding(material: Material) -> Fault:
    """The deck's own collate."""
    reading = ReadOptions(text_split="line")
    units = find_units([material.lines], 1, reading)
    rows = PaddedRows(units, material.tokenizer, batch_size=16, reading=reading)
    injected = "rows padded to the longest of their batch, nothing packed"
    sides = Side(resident(), card(STEP_S)), Side(rows, card(STEP_S))
    return Fault("padding", "padding", injected, PADDING, *sides)


FAULTS: dict[str, Callable[[Material], Fault]] = {
    "clean": clean,
    "preprocessing": preprocessing,
    "slow worker": slow_worker,
    # Behind what forks: an S3 client complains of forks while its requests are under way.
    "latency": latency,
    "slow link": slow_link,
    "pageable memory": pageable,
    "straggler": straggler,
    "network": network,
    "checkpoint": checkpoint,
    "garbage": garbage,
    "small batch": small_batch,
    "padding": padding,
}


def in_threads(jobs: list[Callable[[], Recording]]) -> list[Recording]:
    """What the jobs return, each run in a thread; the first exception of any of them."""
    done: dict[int, Recording | BaseException] = {}

    def work(number: int) -> None:
        try:
            done[number] = jobs[number]()
        except BaseException as error:
            done[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recordings = []
    for number in range(len(jobs)):
        result = done[number]
        if isinstance(result, BaseException):
            raise result
        recordings.append(result)
    return recordings


def _link_rate() -> float:
    return _bytes(resident().batch) / (2 * STEP_S)


def _bytes(batch: Batch) -> int:
    return sum(tensor.nbytes for tensor in batch.values())


def _link(name: str, injected: str, node: Node) -> Fault:
    assert node.h2d_bytes_per_s is not None
    side = Side(resident(), card(STEP_S))
    faulty = replace(side, node=node)
    return Fault(name, "PCIe", injected.format(node.h2d_bytes_per_s / 1e6), H2D, side, faulty)
