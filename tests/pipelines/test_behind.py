"""Writing behind the encoding: in order, one shard at a time, no error lost."""

from __future__ import annotations

import threading

import pytest

from pipelines.behind import Behind


def fail() -> None:
    raise OSError("disk full")


def test_a_second_shard_waits_until_the_first_is_written() -> None:
    writing, release, order = threading.Event(), threading.Event(), []

    def first() -> None:
        writing.set()
        assert release.wait(30)
        order.append("first")

    def hand_a_second(behind: Behind) -> None:
        assert writing.wait(30)
        behind.hand(lambda: order.append("second"))
        order.append("handed")

    with Behind() as behind:
        behind.hand(first)
        other = threading.Thread(target=hand_a_second, args=(behind,))
        other.start()
        assert writing.wait(30)
        assert order == []
        release.set()
        other.join(30)
    assert order[0] == "first"
    assert set(order) == {"first", "second", "handed"}


def test_an_error_stays_with_the_work_that_met_it() -> None:
    with Behind() as behind:
        failed = behind.hand(fail)
        fine = behind.submit(lambda: 7)
        with pytest.raises(OSError, match="disk full"):
            failed.result()
        assert fine.result() == 7
