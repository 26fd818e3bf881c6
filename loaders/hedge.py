"""When a read is so much later than its like that a second one is worth while, and how often.

The latency of an object store has a long tail: nearly all reads take 100-200 ms, a few seconds. A
second request, sent when the first is later than nearly all others were, cures most of it for a few
percent more requests (Dean and Barroso, "The Tail at Scale", 2013). When the whole store is slow,
second requests would make it slower: so their share is bounded at every moment.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class HedgeRules:
    """Seconds, and shares of 1."""

    first: float = 2.0  # late, until enough reads are known
    known: int = 16  # reads of about this size from which on their latency is believed
    times: float = 3.0  # late is this many times as long as nine of ten reads took
    least: float = 0.2  # below it, a machine that is merely busy looks like a slow store
    share: float = 0.05  # hedges among all reads
    burst: float = 4.0  # and this many at once on top of it


class Hedging:
    """Remembers how long reads took, and grants second ones. Used under its owner's lock."""

    _REMEMBERED = 64

    def __init__(self, rules: HedgeRules | None = None) -> None:
        self._rules = rules or HedgeRules()
        self._credit = self._rules.burst
        self._took: dict[int, deque[float]] = {}

    def asked(self) -> None:
        """A read went out: it earns a share of a hedge."""
        self._credit = min(self._rules.burst, self._credit + self._rules.share)

    def took(self, size: int, seconds: float) -> None:
        """A read of `size` bytes was answered."""
        like = self._took.setdefault(size.bit_length(), deque(maxlen=self._REMEMBERED))
        like.append(seconds)

    def late_after(self, size: int) -> float:
        """Seconds after which a read of `size` bytes is late: by those within a factor of two."""
        rules, like = self._rules, self._took.get(size.bit_length(), ())
        if len(like) < rules.known:
            return rules.first
        return max(rules.least, rules.times * sorted(like)[len(like) * 9 // 10])

    def grant(self) -> bool:
        """Whether one more hedge may go out now; it is paid for."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
