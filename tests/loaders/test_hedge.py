"""A second read beside one that is late: the first to come counts, and there are few of them."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.attempts import Patience
from loaders.fetch import Fetcher
from loaders.hedge import HedgeRules, Hedging
from loaders.source import PathSource, Read, Scratch, TransientError
from loaders.stats import FetchCounts
from shards.errors import CorruptShard
from tests.loaders.support import stoker_threads, wait_until

DATA = random.Random(0).randbytes(1 << 16)
EAGER = HedgeRules(first=0.05)


class Exact:
    """A part that lands only what it asked for."""

    def __init__(self, *reads: Read) -> None:
        self.reads = reads
        self.landed = 0

    def land(self, data: Sequence[memoryview | bytes]) -> None:
        for read, one in zip(self.reads, data, strict=True):
            if bytes(one) != DATA[read.start : read.stop]:
                raise CorruptShard(f"{read}")
        self.landed += 1


class Moody(PathSource):
    """Reads a file, but for what `mood` does first. It is told how many reads came before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "a").write_bytes(DATA)
        self.calls = 0
        self._counting = threading.Lock()

    def read(self, read: Read, scratch: Scratch) -> memoryview:
        with self._counting:
            call, self.calls = self.calls, self.calls + 1
        self.mood(call, read)
        return super().read(read, scratch)

    def mood(self, call: int, read: Read) -> None:
        raise NotImplementedError


def bring_all(
    source: PathSource, parts: Sequence[Exact], patience: Patience, rules: HedgeRules
) -> FetchCounts:
    """What was counted when all parts are there."""
    counts, errors = FetchCounts(), list[BaseException]()
    fetcher = Fetcher(source, 8, counts, errors.append, patience, hedging=Hedging(rules))
    done = Counter[int]()
    for number, part in enumerate(parts):

        def landed(number: int = number) -> None:
            done[number] += 1

        fetcher.submit(part, landed)

    def ended() -> bool:
        fetcher.watch()
        return len(done) == len(parts) or bool(errors)

    wait_until(ended, 60)
    fetcher.close(0.5)
    assert not errors
    assert set(done.values()) == {1}
    assert all(part.landed == 1 for part in parts)
    return counts


def test_the_second_read_counts_when_the_first_is_late(tmp_path: Path) -> None:
    release = threading.Event()

    class FirstHangs(Moody):
        def mood(self, call: int, read: Read) -> None:
            if call == 0:
                release.wait(20)

    source = FirstHangs(tmp_path)
    counts = bring_all(source, [Exact(Read("a", 0, 1000))], Patience(), EAGER)
    assert (counts.hedges, counts.hedges_won, counts.timeouts, counts.retries) == (1, 1, 0, 0)
    release.set()
    wait_until(lambda: not stoker_threads())
    assert (source.calls, counts.requests, counts.bytes_read) == (2, 1, 1000)


def test_the_first_read_counts_when_it_comes_after_all(tmp_path: Path) -> None:
    release = threading.Event()

    class SecondHangs(Moody):
        def mood(self, call: int, read: Read) -> None:
            if call == 0:
                wait_until(lambda: self.calls == 2)
            else:
                release.wait(20)

    counts = bring_all(SecondHangs(tmp_path), [Exact(Read("a", 0, 1000))], Patience(), EAGER)
    assert (counts.hedges, counts.hedges_won, counts.requests) == (1, 0, 1)
    release.set()
    wait_until(lambda: not stoker_threads())
    assert counts.requests == 1


def test_a_failed_read_waits_for_its_hedge_before_it_is_tried_again(tmp_path: Path) -> None:
    class FirstFails(Moody):
        def mood(self, call: int, read: Read) -> None:
            if call == 0:
                wait_until(lambda: self.calls == 2)
                raise TransientError("reset")
            time.sleep(0.02)  # longer than it takes the first to fail

    source = FirstFails(tmp_path)
    counts = bring_all(source, [Exact(Read("a", 0, 10))], Patience(), EAGER)
    assert (source.calls, counts.hedges_won, counts.retries) == (2, 1, 0)


def test_a_store_that_is_slow_as_a_whole_gets_few_second_reads(tmp_path: Path) -> None:
    class Slow(Moody):
        def mood(self, call: int, read: Read) -> None:
            time.sleep(0.03)

    rules = HedgeRules(first=0.01, known=1000)  # each single read is late
    source = Slow(tmp_path)
    parts = [Exact(Read("a", n, n + 100)) for n in range(200)]
    counts = bring_all(source, parts, Patience(), rules)
    assert 1 <= counts.hedges <= rules.burst + rules.share * source.calls
    assert source.calls <= len(parts) + counts.hedges


@pytest.mark.parametrize("seed", range(4))
def test_each_part_lands_once_and_exactly_whatever_the_store_does(
    tmp_path: Path, seed: int
) -> None:
    chance, release = random.Random(seed), threading.Event()
    damaged = set[Read]()

    class Wild(Moody):
        def read(self, read: Read, scratch: Scratch) -> memoryview:
            data = super().read(read, scratch)
            # Of a part's two reads always the same one: twice would be the shard's fault.
            one = read.stop - read.start == 64
            if one and chance.random() < 0.05 and read not in damaged:
                damaged.add(read)
                data[len(data) // 2] ^= 1
            return data

        def mood(self, call: int, read: Read) -> None:
            draw = chance.random()
            if draw < 0.02:
                release.wait(20)
            elif draw < 0.1:
                raise TransientError("reset", throttled=draw < 0.05)
            elif draw < 0.5:
                time.sleep(draw / 50)

    patience = Patience(0.3, first_pause=0.005, throttled_pause=0.01, longest_pause=0.02)
    parts = [
        Exact(Read("a", n * 100, n * 100 + 64), Read("a", n, n + chance.randrange(100, 5000)))
        for n in range(300)
    ]
    counts = bring_all(Wild(tmp_path), parts, patience, HedgeRules(first=0.02, least=0.02))
    release.set()
    assert counts.retries
    assert counts.throttled
    assert counts.corrupt_rereads
    assert counts.hedges_won
    wait_until(lambda: not stoker_threads())


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 80)), max_size=8),
    st.floats(0.01, 0.5),
    st.integers(1, 8),
)
def test_hedges_are_a_bounded_share_of_the_reads_of_every_period(
    periods: list[tuple[bool, int]], share: float, burst: int
) -> None:
    late = [is_late for is_late, length in periods for _ in range(length)]
    hedging = Hedging(HedgeRules(share=share, burst=burst))
    granted = []
    for is_late in late:
        hedging.asked()
        granted.append(is_late and hedging.grant())
    for start in range(0, len(late), 7):
        period = granted[start:]
        for length in range(1, len(period) + 1, 5):
            assert sum(period[:length]) <= burst + share * length + 1e-6
    # And they are granted as long as they are few.
    assert not any(late) or granted[late.index(True)]


def test_late_is_measured_by_reads_of_about_the_same_size() -> None:
    hedging = Hedging(HedgeRules(first=2.0, known=10, times=3.0, least=0.1))
    for _ in range(10):
        assert hedging.late_after(1 << 20) == 2.0
        hedging.took(1 << 20, 0.5)
        hedging.took(1 << 12, 0.001)
    assert hedging.late_after((1 << 20) + 5) == pytest.approx(1.5)
    assert hedging.late_after(1 << 12) == 0.1
    assert hedging.late_after(1 << 16) == 2.0


def test_one_slow_read_in_twenty_does_not_change_what_late_means() -> None:
    hedging = Hedging()
    for n in range(200):
        hedging.took(1000, 5.0 if n % 20 == 0 else 0.1)
    assert hedging.late_after(1000) == pytest.approx(0.3)
