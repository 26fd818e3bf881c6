"""What to do about each cause, with the figures that say so; nothing where nothing says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median

from benchmarks.starvation.explain.causes import (
    ASSEMBLE,
    CALLED,
    CHECKPOINT,
    COMMUNICATION,
    FETCH,
    GC,
    H2D,
    HOST,
    INPUT,
    INPUT_CAUSES,
    MEMORY,
    NOT_SEPARABLE,
    PADDING,
    PREP,
    QUEUE,
    STRAGGLER,
    WORKERS,
)
from benchmarks.starvation.explain.result import Advice, Result, knee

# A clean run has less than this of every cause (see `selftest.NOTHING`).
WORTH = 0.02
# An input cause that is less of the stall is not what to begin with.
WORTH_OF_STALL = 0.1
WORTH_PADDING = 0.05
# What the device sees of these while it starves hides behind its compute once it is fed.
HIDDEN_WHEN_FED = (H2D, GC, HOST)


def advise(result: Result) -> tuple[Advice, ...]:
    """What is worth doing, the largest share first; nothing for a loop that is well fed.

    A cause needs evidence: `WORTH` of the window in the middle one of the seeds. Where the ranks
    wait for each other more than for input, a sentence says that data workers can't help. A batch
    that is always there gets none: nobody can feed a loop better.
    """
    if not result.bounded:
        return ()
    found = [_advice(cause, result.share(cause), *_said(cause, result)) for cause in _worth(result)]
    if result.padding_lost >= WORTH_PADDING:
        found.append(
            _advice(
                PADDING,
                result.padding_lost,
                f"{_percent(result.padding_lost)} of the slots are padding",
                "Pack documents into rows: the same step then trains"
                f" {1 / max(1e-9, 1 - result.padding_lost):.1f} times the tokens.",
            )
        )
    return tuple(sorted(found, key=lambda each: -each.share))


def _worth(result: Result) -> Iterator[str]:
    """The causes that something should be done about."""
    stall = result.share(*INPUT_CAUSES)
    for cause in RULES:
        share = min(result.share(cause), _usual(result, cause))
        if share < WORTH:
            continue
        if cause in INPUT_CAUSES and share < WORTH_OF_STALL * stall:
            continue
        if cause in HIDDEN_WHEN_FED and share < stall:
            continue
        yield cause


def _usual(result: Result, cause: str) -> float:
    """The share of the middle seed: what one of several had may be this machine's."""
    spent: dict[int, list[int]] = {}
    for run in result.runs:
        so_far = spent.setdefault(run.seed, [0, 0])
        so_far[0] += run.causes.get(cause, 0)
        so_far[1] += run.window_ns
    if not spent:
        return result.share(cause)
    return median(part / max(1, whole) for part, whole in spent.values())


def _said(cause: str, result: Result) -> tuple[str, str]:
    evidence, action = RULES[cause]
    return evidence(result), action(result)


def _advice(cause: str, share: float, evidence: str, action: str) -> Advice:
    family, name = CALLED[cause]
    return Advice(cause, family, name, share, evidence, action)


def _of_stall(cause: str) -> Callable[[Result], str]:
    def evidence(result: Result) -> str:
        stall = result.share(*INPUT_CAUSES)
        text = (
            f"{_percent(result.share(cause) / max(1e-12, stall))} of the stall,"
            f" {_percent(result.share(cause))} of the window; worst gaps"
            f" {result.figures.gap_p99_ms:.0f} ms (p99)"
        )
        headroom = result.headroom
        if headroom is None:
            return text
        return f"{text}; alone the loader gives {headroom:.2g} times what the device takes"

    return evidence


def _of_window(cause: str, counted: str = "", unit: str = "") -> Callable[[Result], str]:
    def evidence(result: Result) -> str:
        share = result.share(cause)
        step_ms = 1e3 * result.figures.window_s / max(1, result.figures.steps)
        text = f"{_percent(share)} of the window, {share * step_ms:.2g} ms a step"
        return f"{text}; {result.counters.get(counted, 0):.0f} {unit}" if counted else text

    return evidence


def _too_slow(result: Result) -> bool:
    """True where the loader gives less than the device takes: no buffer can help.

    Where nobody saw it alone: where it was waited for in most steps, one after the other.
    """
    if result.headroom is not None:
        return result.headroom < 1
    return result.figures.longest_burst_steps > result.figures.steps / 2


def _more_batches(result: Result) -> int:
    """Steps that must be read ahead so that the worst wait passes while the device computes."""
    busy_ms = 1e3 * result.figures.window_s / max(1, result.figures.steps)
    busy_ms *= 1 - result.figures.gap_rate
    return 1 + math.ceil(result.figures.gap_p99_ms / max(1e-6, busy_ms))


def _ahead(result: Result) -> str:
    if _too_slow(result):
        return (
            "Reading further ahead cannot help: bytes come more slowly than they are used. Have"
            " more requests under way at a time (Stoker: num_workers), or keep the data on a local"
            " disk (Stoker: cache_dir)."
        )
    return (
        f"Read further ahead, {_more_batches(result)} batches more, or keep the data on a local"
        " disk (Stoker: prefetch_bytes, cache_dir)."
    )


def _prepared(result: Result) -> str:
    once = "Do this work once, ahead of training (pipelines/tokenize.py)"
    if not _too_slow(result):
        return (
            f"{once}, or keep {_more_batches(result)} batches more ready: the loader is fast"
            " enough, but in bursts."
        )
    cores = result.cores_to_feed
    needed = ""
    if cores:
        # Rounded up: half a core cannot be had.
        whole = math.ceil(cores)
        needed = f", or give it {whole} CPU core{'' if whole == 1 else 's'} a card"
    return f"{once}{needed}.{_more_workers(result)}"


def _more_workers(result: Result) -> str:
    """What was seen of more workers, where they were tried; "" else."""
    bend = knee(result.workers)
    if bend is None or bend.workers == max(point.workers for point in result.workers):
        return ""
    if bend.workers == 0:
        return " Worker processes brought nothing here."
    workers = "1 worker" if bend.workers == 1 else f"{bend.workers} workers"
    return f" More than {workers} brought nothing here."


def _staffed(result: Result) -> str:
    tried = _more_workers(result)
    if tried:
        return (
            f"{tried.strip()} See whether one is slower than the others: what it reads, and where."
        )
    return (
        "Give the loader more workers; where one is slower than the others, see what that one"
        " reads, and where it runs."
    )


def _untold(result: Result) -> str:
    """What can be said of a loader that keeps no record."""
    if not _too_slow(result):
        return (
            f"The loader is fast enough, but in bursts: keep {_more_batches(result)} batches more"
            " ready (torch: prefetch_factor). It doesn't tell what they wait for."
        )
    more = _more_workers(result) or " Give it more workers, or less to do for each batch."
    return (
        f"Reading further ahead cannot help: the loader is slower than the device.{more} It"
        " doesn't tell what its batches wait for."
    )


def _exchanged(result: Result) -> str:
    """What the exchange takes beside what input takes, and what the loader alone could do."""
    text = (
        f"{_percent(result.share(COMMUNICATION))} of the window in the exchange,"
        f" {_percent(result.share(*INPUT_CAUSES))} waiting for input"
    )
    if result.headroom is None:
        return text
    return f"{text}; the loader alone is {result.headroom:,.0f} times as fast as the cards ask"


def _network(result: Result) -> str:
    stall, waits = result.share(*INPUT_CAUSES), result.share(COMMUNICATION, STRAGGLER)
    if stall >= waits:
        return "Overlap the exchange with compute, or use a faster network."
    if stall >= WORTH:
        data = f"Data workers can win back {_percent(stall)} at most: mostly"
    else:
        data = "Data is not the problem. Adding data workers cannot help:"
    faster = 1 / max(1e-9, 1 - waits)
    return (
        f"{data} the ranks wait for each other. Without those waits they would train"
        f" {faster:.1f} times as fast, at most. Overlap the exchange with compute, exchange less"
        " often, or use a faster network."
    )


def _slowest(result: Result) -> str:
    """What to do about the rank that the others wait for: a late rank may lack data."""
    late, others = _parted(result)
    if late is None or not others:
        stall = others_stall = 0.0
    else:
        stalls = {rank: _mean(_of(result, rank, "stall_rate")) for rank in (late, *others)}
        stall, others_stall = stalls[late], _mean([stalls[rank] for rank in others])
    if stall >= WORTH and stall > 2 * others_stall:
        return (
            f"Rank {late} waits for input {_percent(stall)} of its time, the others"
            f" {_percent(others_stall)}: feed that one first, and the others wait less."
        )
    return (
        "Adding data workers cannot help: the ranks wait for the slowest. Look at that rank's"
        " host, its clocks and its share of the data."
    )


def _parted(result: Result) -> tuple[int | None, list[int]]:
    """The rank whose own work takes longest, and the others."""
    ranks = {run.rank for run in result.runs}
    if not ranks:
        return None, []
    late = max(ranks, key=lambda rank: _mean(_of(result, rank, "own_work_ms")))
    return late, sorted(ranks - {late})


def _of(result: Result, rank: int, figure: str) -> list[float]:
    return [getattr(run, figure) for run in result.runs if run.rank == rank]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _late(result: Result) -> str:
    """Who is late: the rank whose own work takes longest."""
    text = f"{_percent(result.share(STRAGGLER))} of the window"
    late, others = _parted(result)
    if late is None or not others:
        return text
    own = _mean(_of(result, late, "own_work_ms"))
    rest = _mean([_mean(_of(result, rank, "own_work_ms")) for rank in others])
    return f"{text}; rank {late} works {own:.0f} ms a step, the others {rest:.0f}"


def _always(text: str) -> Callable[[Result], str]:
    return lambda result: text


RULES: dict[str, tuple[Callable[[Result], str], Callable[[Result], str]]] = {
    COMMUNICATION: (_exchanged, _network),
    STRAGGLER: (_late, _slowest),
    NOT_SEPARABLE: (
        _of_window(NOT_SEPARABLE),
        _always(
            "These steps show nothing of their inside: mark the exchange with"
            ' m.span("communication") to see how much of it is waiting.'
        ),
    ),
    FETCH: (_of_stall(FETCH), _ahead),
    PREP: (_of_stall(PREP), _prepared),
    WORKERS: (_of_stall(WORKERS), _staffed),
    ASSEMBLE: (
        _of_stall(ASSEMBLE),
        _always("Make batches ahead of the loop, and collate arrays, not lists of samples."),
    ),
    QUEUE: (
        _of_stall(QUEUE),
        _always(
            "Batches are ready and come late: the loop's process has too little CPU, or they are"
            " copied between processes."
        ),
    ),
    INPUT: (_of_stall(INPUT), _untold),
    H2D: (
        _of_window(H2D),
        _always(
            "Copy from pinned memory, without blocking, on a stream of its own while the step"
            ' before computes (Stoker: device="cuda"), and send no more than is needed.'
        ),
    ),
    CHECKPOINT: (
        _of_window(CHECKPOINT),
        _always("Save in the background, from a copy in host memory, or less often."),
    ),
    GC: (
        _of_window(GC, "gc_collections", "collections"),
        _always("Call gc.freeze() behind the warm-up, or gc.disable() and collect every N steps."),
    ),
    MEMORY: (
        _of_window(MEMORY, "major_faults", "major faults"),
        _always(
            "Memory is short: read less far ahead, use fewer workers, or smaller batches; on the"
            " device, set expandable_segments."
        ),
    ),
    HOST: (
        _of_window(HOST),
        _always(
            "The host launches too little work at a time: use larger batches, compile the step or"
            " capture it in a graph, and log less often."
        ),
    ),
}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
