"""One writer at an output, a driver or `gc`: takes its lease, keeps it alive, gives it back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from shards.errors import StokerError, StoreError
from shards.lease import LEASE, Lease, judge_lease, read_lease, stale_after
from shards.store import Store

# Two drivers that started at once part here, before Ray has started.
_FIRST_BEATS_S = (0.5, 1.0, 2.0)
_AGAIN_S = 1.0


class HeldLease:
    """A lease of this process, and the thread that rewrites it."""

    def __init__(self, store: Store) -> None:
        self._store, self._lease = store, Lease.mine()
        self._stop = threading.Event()
        self._reachable = True
        self._lost: StokerError | None = None
        main = threading.main_thread()
        self._main = main.ident if threading.current_thread() is main else None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def start(self) -> None:
        """Writes it. Raises StoreError when the output can't be written."""
        self._store.write(LEASE, self._lease.to_json())
        self._thread.start()

    def check(self) -> None:
        """Raises StokerError if somebody else has taken the lease meanwhile."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """As `check`, asking the store: before what can't be taken back."""
        self.check()
        if not self._is_mine(read_lease(self._store)):
            # As in `_beat`, once more.
            self._stop.wait(_AGAIN_S)
            found = read_lease(self._store)
            if not self._is_mine(found):
                self._lost = self._loss(found)
                raise self._lost

    def stop(self) -> None:
        """Gives it back; where the store doesn't answer it is left to go stale."""
        self._stop.set()
        self._thread.join(stale_after() / 3)
        self._lease.give_up()
        if self._lost or not self._reachable or self._thread.is_alive():
            return
        with suppress(StoreError):
            if self._is_mine(read_lease(self._store)):
                self._store.delete(LEASE)

    def _beat(self) -> None:
        waits = iter(_FIRST_BEATS_S)
        strange = 0
        while not self._stop.wait(
            _AGAIN_S if strange else min(next(waits, 1e9), stale_after() / 3)
        ):
            try:
                found = read_lease(self._store)
                # Twice in a row: a store that isn't S3 may show a half-written object for a moment.
                strange = 0 if self._is_mine(found) else strange + 1
                if strange > 1:
                    self._lose(found)
                    return
                if not strange:
                    self._lease = replace(self._lease, beat=self._lease.beat + 1)
                    self._store.write(LEASE, self._lease.to_json())
                self._reachable = True
            except StoreError:
                # If the store is gone for good, the job's own writes will say so.
                self._reachable = False

    def _is_mine(self, found: Lease | None) -> bool:
        return found is not None and found.id == self._lease.id

    def _lose(self, found: Lease | None) -> None:
        self._lost = self._loss(found)
        # The main thread may be waiting for a task for minutes. Where nobody has said what SIGTERM
        # means it would end the process without a word.
        handled = callable(signal.getsignal(signal.SIGTERM))
        if handled and self._main is not None and not self._stop.is_set():
            signal.pthread_kill(self._main, signal.SIGTERM)

    def _loss(self, found: Lease | None) -> StokerError:
        whose = f"was taken over by another job ({found})" if found else "is gone"
        return StokerError(
            f"{self._store.uri}: the lease of this job {whose}, perhaps because this one was "
            "suspended or could not write; so this one ends. Finished units stay: once no other "
            "job writes there, the same command continues from them"
        )


@contextmanager
def hold_lease(store: Store, say: Callable[[str], None]) -> Iterator[HeldLease]:
    """Holds the lease of an output inside; enter it where SIGTERM raises `Interrupted`.

    Args:
        say: is told when another's stale lease is taken over.

    Raises:
        StokerError: another job is writing there, or has taken over in the meantime.
    """
    other, stale = judge_lease(store)
    if other is not None and not stale:
        raise StokerError(
            f"{store.uri}: another job is writing there ({other}). Wait for its end, stop it, or "
            "choose another --output"
        )
    if other is not None:
        say(f"taking over from {other}: {stale}")
    held = HeldLease(store)
    held.start()
    try:
        try:
            yield held
        finally:
            held.stop()
    except BaseException:
        held.check()
        raise
