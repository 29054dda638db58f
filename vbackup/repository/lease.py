"""Leases: one writer, one pruner. Works on every store that lists what was written.

A holder writes `leases/<name>/<owner>` and then lists the prefix: whoever sees another live
claim withdraws his own. Two claims written at once see each other and both withdraw, so at most
one is ever held; no conditional write is needed, and a stale claim is removed under its own
key, never a fresh one by mistake.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from vbackup import incarnation
from vbackup.errors import Locked, NotFound, VbackupError
from vbackup.ports import Clock, ObjectStore

PREFIX = "leases/"
TTL = 300.0
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One claim as it is stored (plain JSON: it names no data, and helps without a key)."""

    name: str
    owner: str
    host: str
    pid: int
    process: str
    started_at: datetime
    heartbeat_at: datetime
    ttl_seconds: float

    @property
    def key(self) -> str:
        """Its object."""
        return f"{PREFIX}{self.name}/{self.owner}"

    def describe(self) -> str:
        """For people: who, where, since when."""
        return (
            f"{self.name} lease held by pid {self.pid} on {self.host} since "
            f"{self.started_at:%Y-%m-%d %H:%M:%SZ}, last sign of life "
            f"{self.heartbeat_at:%H:%M:%SZ}"
        )


_RECORDS = msgspec.json.Decoder(LeaseRecord)


@dataclass(frozen=True, slots=True)
class Claim:
    """A stored claim and whether its holder is gone."""

    key: str
    record: LeaseRecord | None
    modified: datetime
    stale: bool


def claims(store: ObjectStore, clock: Clock, name: str = "") -> list[Claim]:
    """All claims on one lease, or on any."""
    prefix = f"{PREFIX}{name}/" if name else PREFIX
    found = []
    for stat in store.scan(prefix):
        with suppress(NotFound):
            record = _decode(store.get(stat.key))
            stale = _stale(record, stat.modified, clock.now())
            found.append(Claim(stat.key, record, stat.modified, stale))
    return found


def _decode(data: bytes) -> LeaseRecord | None:
    try:
        return _RECORDS.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _stale(record: LeaseRecord | None, modified: datetime, now: datetime) -> bool:
    # Both the holder's clock and the store's must say so: one of them may be wrong.
    ttl = timedelta(seconds=record.ttl_seconds if record else TTL)
    newest = max(modified, record.heartbeat_at) if record else modified
    if now - newest > ttl:
        return True
    return record is not None and _died_here(record)


def _died_here(record: LeaseRecord) -> bool:
    """Whether the holder was a process of this very machine and pid namespace that is gone."""
    place, _, started = record.process.rpartition("@")
    here = bool(place) and place == incarnation.place()
    return here and started != incarnation.started(record.pid)


class Lease:
    """One held lease with its heartbeat thread. Use `acquire`; end with `release`."""

    def __init__(self, store: ObjectStore, clock: Clock, record: LeaseRecord) -> None:
        self._store = store
        self._clock = clock
        self._record = record
        self._confirmed = clock.now()
        self._lost = ""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name=f"vbackup-lease-{record.name}", daemon=True
        )

    @property
    def record(self) -> LeaseRecord:
        """The claim as it was last written."""
        return self._record

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def beat(self) -> None:
        """Renew the claim once. Raises Locked when it was taken away or has expired."""
        with self._lock:
            self._check_gone()
            renewed = replace(self._record, heartbeat_at=self._clock.now())
            self._store.put(renewed.key, msgspec.json.encode(renewed))
            self._record = renewed
            self._confirmed = renewed.heartbeat_at

    def confirm(self) -> None:
        """Raises Locked unless the lease is held at this moment."""
        self.beat()

    def _check_gone(self) -> None:
        if not self._lost and self._store.stat(self._record.key) is None:
            self._lost = "it was removed (vbackup unlock?)"
        age = (self._clock.now() - self._confirmed).total_seconds()
        if not self._lost and age > self._record.ttl_seconds:
            self._lost = f"it could not be renewed for {age:.0f} s"
        if self._lost:
            raise Locked(f"the {self._record.name} lease was lost: {self._lost}", hint="run again")

    def _run(self) -> None:
        while not self._stop.wait(self._record.ttl_seconds / 5):
            try:
                self.beat()
            except Locked:
                return
            except VbackupError:
                continue  # The store may come back before the lease expires; confirm() decides.

    def release(self) -> None:
        """Stop beating and remove the claim; a store that fails now leaves it to expire."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(VbackupError):
            self._store.delete([self._record.key])


def acquire(store: ObjectStore, clock: Clock, name: str, *, ttl: float = TTL) -> Lease:
    """Take the lease; claims of holders that are gone are removed. Raises Locked with the
    holder."""
    for attempt in range(1, _ATTEMPTS + 1):
        record = _new_record(name, clock.now(), ttl)
        rival = _claim(store, clock, record)
        if rival is None:
            lease = Lease(store, clock, record)
            lease.start()
            return lease
        # Only claims just made can be waited out: they may withdraw like this one.
        if attempt == _ATTEMPTS or clock.now() - rival.modified > timedelta(seconds=10):
            raise Locked(
                rival.record.describe() if rival.record else f"{rival.key} is held",
                hint=f"wait for it, or remove it with: vbackup unlock {name}",
            )
        clock.sleep(random.uniform(0.05, 0.5) * attempt)  # noqa: S311 - no secret
    raise Locked(f"the {name} lease is contended", hint="run again")


def _claim(store: ObjectStore, clock: Clock, record: LeaseRecord) -> Claim | None:
    """Put the claim; withdraw it and return the rival when there is a live one."""
    try:
        store.put(record.key, msgspec.json.encode(record))
        rival = _clear_stale(store, clock, record)
    except BaseException:
        with suppress(VbackupError):
            store.delete([record.key])
        raise
    if rival is not None:
        store.delete([record.key])
    return rival


def _clear_stale(store: ObjectStore, clock: Clock, own: LeaseRecord) -> Claim | None:
    others = [claim for claim in claims(store, clock, own.name) if claim.key != own.key]
    stale = [claim.key for claim in others if claim.stale]
    if stale:
        store.delete(stale)
    return next((claim for claim in others if not claim.stale), None)


def _new_record(name: str, now: datetime, ttl: float) -> LeaseRecord:
    pid = os.getpid()
    place = incarnation.place()
    return LeaseRecord(
        name=name,
        owner=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=pid,
        process=f"{place}@{incarnation.started(pid)}" if place else "",
        started_at=now,
        heartbeat_at=now,
        ttl_seconds=ttl,
    )
