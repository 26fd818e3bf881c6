"""One driver at an output: the second is told, a dead one's lease goes stale, a lost one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import StokerError, StoreError
from shards.hold import hold_lease
from shards.lease import LEASE, Lease, judge_lease, living_lease, read_lease
from shards.store import Store, open_store
from tests.pipelines.processes import REPOSITORY, process, wait_until

# A signal that comes just as Python begins to wait is seen when the wait ends: short ones.
HOLDER = """
import sys, time
from pipelines.interrupt import Interrupted, interruptible
from shards.hold import hold_lease
from shards.errors import StokerError
from shards.store import open_store

try:
    with interruptible(), hold_lease(open_store(sys.argv[1]), print):
        print("held", flush=True)
        for _ in range(2400):
            time.sleep(0.05)
except StokerError as error:
    sys.exit(str(error))
except Interrupted:
    sys.exit(3)
"""


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path / "out"))
    return open_store(request.getfixturevalue("s3").bucket("leases") + "/out")


@contextmanager
def holder(store: Store, stale_s: float) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "STOKER_LEASE_STALE_S": str(stale_s), "PYTHONPATH": str(REPOSITORY)}
    with process([sys.executable, "-c", HOLDER, store.uri], env) as started:
        yield started


def first_line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_a_second_driver_is_told_who_writes_there_and_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(store, 6) as other:
        assert first_line(other) == "held"
        monkeypatch.setenv("STOKER_LEASE_STALE_S", "60")
        with (
            pytest.raises(StokerError, match=f"another job is writing there .pid {other.pid} on "),
            hold_lease(store, print),
        ):
            pytest.fail("held by two")
        lease = living_lease(store)
        assert lease is not None
        assert lease.pid == other.pid
        assert other.poll() is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_driver_gives_its_lease_back(how: signal.Signals, store: Store) -> None:
    with holder(store, 60) as other:
        assert first_line(other) == "held"
        assert store.exists(LEASE)
        other.send_signal(how)
        assert other.wait(60) == 3
        assert not store.exists(LEASE)


def test_an_error_inside_gives_the_lease_back(store: Store) -> None:
    def fail() -> None:
        with hold_lease(store, print) as held:
            assert living_lease_of_this_process(store)
            held.check()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.exists(LEASE)


def living_lease_of_this_process(store: Store) -> bool:
    lease = read_lease(store)
    return lease is not None and lease.pid == os.getpid() and not lease.is_gone()


def test_a_killed_drivers_lease_is_stale_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(store, 1000) as other:
        assert first_line(other) == "held"
        other.kill()
        other.wait(60)
    # It would take a thousand seconds to judge by silence.
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "1000")
    assert living_lease(store) is None
    said: list[str] = []
    with hold_lease(store, said.append):
        pass
    [line] = said
    assert line.startswith(f"taking over from pid {other.pid} on ")
    assert line.endswith("it has ended")


def test_a_number_given_to_another_process_is_not_the_holder(store: Store) -> None:
    mine = Lease.mine()
    store.write(LEASE, replace(mine, started=mine.started - 1).to_json())
    assert judge_lease(store)[1] == "it has ended"


def test_a_lease_of_another_machine_goes_stale_when_nothing_is_heard_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "0.4")
    store.write(LEASE, replace(Lease.mine(), host="elsewhere", machine="x", pid=1).to_json())
    lease, why = judge_lease(store)
    assert lease is not None
    assert lease.host == "elsewhere"
    assert why == "nothing was heard of it for 0.4 s"


def test_a_lease_that_could_not_be_deleted_does_not_stop_this_process_from_going_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "1000")
    with hold_lease(store, print):
        left = store.read(LEASE)
    store.write(LEASE, left)
    said: list[str] = []
    with hold_lease(store, said.append):
        assert said[0].endswith("it has ended")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "\\u001b[2J"}', b"\xff" * 99])
def test_a_lease_that_cannot_be_read_is_anybodys_until_it_goes_stale(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "0.2")
    store = open_store(str(tmp_path))
    store.write(LEASE, content)
    lease, why = judge_lease(store)
    assert lease is not None
    assert str(lease) == "pid 0 on unknown, since unknown"
    assert why == "nothing was heard of it for 0.2 s"


def test_a_suspended_driver_that_lost_its_lease_ends_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_LEASE_STALE_S", "1.5")
    with holder(store, 1.5) as other:
        assert first_line(other) == "held"
        other.send_signal(signal.SIGSTOP)
        said: list[str] = []
        with hold_lease(store, said.append) as held:
            assert said[0].startswith(f"taking over from pid {other.pid} on ")
            other.send_signal(signal.SIGCONT)
            _, err = other.communicate(timeout=60)
            assert other.returncode == 1
            assert f"was taken over by another job (pid {os.getpid()} on " in err
            held.check()
            assert living_lease_of_this_process(store)
    assert not store.exists(LEASE)


def test_a_driver_whose_lease_is_gone_ends_and_says_so(store: Store) -> None:
    with holder(store, 1.5) as other:
        assert first_line(other) == "held"
        store.delete(LEASE)

        def ended() -> bool:
            # Deleted between its reading and its writing, the file comes back once.
            store.delete(LEASE)
            return other.poll() is not None

        wait_until(ended, 60, "the end")
        assert other.returncode == 1
        assert "the lease of this job is gone" in other.communicate()[1]


def test_of_drivers_that_start_at_once_exactly_one_stays(store: Store) -> None:
    with holder(store, 6) as a, holder(store, 6) as b, holder(store, 6) as c:
        jobs = [a, b, c]
        wait_until(lambda: [job.poll() for job in jobs].count(1) == 2, 100, "two ends")
        [left] = [job for job in jobs if job.poll() is None]
        lease = living_lease(store)
        assert lease is not None
        assert lease.pid == left.pid


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with (
        pytest.raises(StoreError, match=str(tmp_path / "file")),
        hold_lease(open_store(str(tmp_path / "file")), print),
    ):
        pytest.fail("held nothing")
