"""Who is writing to an output: `lease.json` beside the data, with a heartbeat.

A courtesy: it keeps two drivers, or a driver and `gc`, from doing the same work or from deleting
what the other one needs. That the dataset is right doesn't depend on it: whoever writes a unit
writes the same bytes to the same names.

Whether a holder lives is judged without comparing clocks: whoever wants to know watches whether the
content changes. The time written in it is for people.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from shards.errors import MissingObject
from shards.format import xxh3
from shards.store import Store

LEASE = "lease.json"

_STALE_S = 30.0
_given_up: set[str] = set()
# Nothing that could steer a terminal.
_WORD = r"^[A-Za-z0-9_.:/\[\]+-]*$"


@checked(frozen=True, kw_only=True)
class Lease:
    """What a holder says of itself.

    Attributes:
        id: of this holding, random.
        beat: grows while the holder lives.
        machine: boot and process namespace in which `pid` means something; "" if unknown.
        started: when the process started, in ticks since that boot: numbers are used again.
        since: UTC, for people.
    """

    id: str = Field(pattern=_WORD, max_length=255)
    beat: int
    host: str = Field(pattern=_WORD, max_length=255)
    pid: int
    machine: str = Field(pattern=_WORD, max_length=255)
    started: int
    since: str = Field(pattern=_WORD, max_length=255)

    @classmethod
    def mine(cls) -> Lease:
        """A new one of this process."""
        return cls(
            id=uuid.uuid4().hex,
            beat=0,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
            since=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}"

    def give_up(self) -> None:
        """Says that nobody in this process holds it any more, wherever it may still be stored."""
        _given_up.add(self.id)

    def is_gone(self) -> bool:
        """Whether the holder is known to have ended: it ran here, and doesn't."""
        here = bool(self.machine) and self.machine == _machine()
        return here and (self.id in _given_up or not self._runs())

    def _runs(self) -> bool:
        try:
            return _started(self.pid) == self.started
        except OSError:
            return False

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self)).encode()


def stale_after() -> float:
    """Seconds without a change after which a lease counts for nothing; a holder beats thrice in it.

    30, unless `STOKER_LEASE_STALE_S` says otherwise: the same for all who share an output.
    """
    return float(os.environ.get("STOKER_LEASE_STALE_S") or _STALE_S)


def read_lease(store: Store) -> Lease | None:
    """The lease at an output, if there is one; unreadable content is that of an unknown holder."""
    try:
        data = store.read(LEASE)
    except MissingObject:
        return None
    try:
        return Lease(**json.loads(data))
    except (ValueError, TypeError):
        unknown = {"host": "unknown", "machine": "", "since": "unknown", "pid": 0, "started": 0}
        return Lease(id=f"{xxh3(data):016x}", beat=0, **unknown)  # type: ignore[arg-type]


def judge_lease(store: Store) -> tuple[Lease | None, str]:
    """The lease at an output, and in words why it counts for nothing; "" while its holder lives.

    Takes no time when there is none or its process ended on this machine, as long as a heartbeat
    when the holder lives, `stale_after()` seconds when it doesn't.

    Raises:
        StoreError: the output can't be read.
    """
    patience = stale_after()
    deadline = time.monotonic() + patience
    first = lease = read_lease(store)
    while lease is not None:
        if lease.is_gone():
            return lease, "it has ended"
        if lease != first:
            return lease, ""
        if time.monotonic() >= deadline:
            return lease, f"nothing was heard of it for {patience:g} s"
        time.sleep(min(1.0, patience / 30))
        lease = read_lease(store)
    return None, ""


def living_lease(store: Store) -> Lease | None:
    """The lease of whoever is writing to an output now; None when nobody is. See `judge_lease`."""
    lease, stale = judge_lease(store)
    return None if stale else lease


def _machine() -> str:
    """Names the boot and the process namespace of this process; "" where that can't be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int:
    """Ticks from boot to the start of a process that runs; 0 where there is no /proc.

    Raises:
        OSError: there is a /proc, and no such process in it; or it is a zombie.
    """
    if not os.path.exists("/proc/self/stat"):
        return 0
    with open(f"/proc/{pid}/stat") as file:
        # The name, in parentheses, may hold anything.
        fields = file.read().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return int(fields[19])
