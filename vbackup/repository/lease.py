"""Leases: one writer, one pruner, any number of readers. On every store that lists what it holds.

A holder writes `leases/<name>/<owner>` and then lists the prefix: whoever sees another live
claim withdraws his own. Two claims written at once see each other and both withdraw, so at most
one is ever held; no conditional write is needed, and a stale claim is removed under its own
key, never a fresh one by mistake. A claim's age is taken by the store's clock alone, from the
times at which the store took both claims: machines' clocks need not agree.
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
from vbackup.errors import Damaged, Locked, NotFound, VbackupError
from vbackup.ports import Clock, LeaseName, ObjectStore
from vbackup.repository import untrusted
from vbackup.repository.manifest import is_id

PREFIX = "leases/"
TTL = 300.0
_ATTEMPTS = 4
_LONGEST_TTL = 86_400.0
_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One claim as it is stored (plain JSON: it names no data, and helps without a key).
    `backup` is the one that a reader reads."""

    name: str
    owner: str
    host: str
    pid: int
    process: str
    started_at: datetime
    heartbeat_at: datetime
    ttl_seconds: float
    backup: str = ""

    @property
    def key(self) -> str:
        """Its object."""
        return f"{PREFIX}{self.name}/{self.owner}"

    @property
    def holder(self) -> str:
        """For people: who and where."""
        return f"pid {self.pid} on {self.host}"

    def describe(self) -> str:
        """For people: who, where, since when."""
        of = f" of backup {self.backup}" if self.backup else ""
        return (
            f"{self.name} lease{of} held by {self.holder} since "
            f"{self.started_at:%Y-%m-%d %H:%M:%SZ}, last sign of life "
            f"{self.heartbeat_at:%H:%M:%SZ}"
        )


_RECORDS = msgspec.json.Decoder(LeaseRecord)


@dataclass(frozen=True, slots=True)
class Claim:
    """A stored claim and whether its holder is gone. Without a `record` nobody can read it."""

    key: str
    record: LeaseRecord | None
    modified: datetime
    stale: bool

    def describe(self) -> str:
        """For people."""
        return self.record.describe() if self.record else f"{self.key} is held"


def store_time(store: ObjectStore, clock: Clock) -> datetime:
    """What time it is by the store's own clock; by this machine's, where nothing can be written."""
    key = f"{PREFIX}clock/{secrets.token_hex(8)}"
    try:
        store.put(key, b"")
        stat = store.stat(key)
        store.delete([key])
    except VbackupError:
        return clock.now()
    return stat.modified if stat else clock.now()


def claims(store: ObjectStore, now: datetime, name: str = "") -> list[Claim]:
    """All claims on one lease, or on any. `now` is the store's own time."""
    prefix = f"{PREFIX}{name}/" if name else PREFIX
    found = []
    for stat in store.scan(prefix):
        with suppress(NotFound):
            record = _decode(stat.key, store.get(stat.key, 0, _LIMIT))
            found.append(Claim(stat.key, record, stat.modified, _stale(record, stat.modified, now)))
    return found


def _decode(key: str, data: bytes) -> LeaseRecord | None:
    """Anybody who may write the bucket may have written this: nothing odd is believed."""
    try:
        record = untrusted.parse(_RECORDS, data, key)
    except Damaged:
        return None
    zoned = record.started_at.tzinfo is not None and record.heartbeat_at.tzinfo is not None
    named = record.host.isprintable() and len(record.host) < 256
    named = named and (not record.backup or is_id(record.backup))
    sane = zoned and named and 0 < record.ttl_seconds <= _LONGEST_TTL
    return record if sane and record.key == key else None


def _stale(record: LeaseRecord | None, modified: datetime, now: datetime) -> bool:
    ttl = timedelta(seconds=record.ttl_seconds if record else TTL)
    if now - modified > ttl:
        return True
    return record is not None and _died_here(record)


def _died_here(record: LeaseRecord) -> bool:
    """Whether the holder was a process of this very machine and pid namespace that is gone."""
    place, _, started = record.process.rpartition("@")
    here = bool(place) and place == incarnation.place()
    return here and started != incarnation.started(record.pid)


class Lease:
    """One held lease with its heartbeat thread. Use `acquire` or `share`; end with `release`.

    A shared one excludes nobody: it is renewed as long as it is there, however late."""

    def __init__(
        self, store: ObjectStore, clock: Clock, record: LeaseRecord, *, shared: bool = False
    ) -> None:
        self._store = store
        self._clock = clock
        self._record = record
        self._shared = shared
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
            self._beat()

    def confirm(self) -> None:
        """Raises Locked unless the lease is held at this moment."""
        self.beat()

    def moment(self) -> datetime:
        """What time it is by the store's own clock. Raises Locked as `confirm` does."""
        with self._lock:
            return self._beat()

    def _beat(self) -> datetime:
        if self._lost:
            raise self._lose(self._lost)
        before = self._stored()
        renewed = replace(self._record, heartbeat_at=self._clock.now())
        self._store.put(renewed.key, msgspec.json.encode(renewed))
        after = self._stored()
        # Judged by the clock that rivals judge by. It may be hours since the look before, if this
        # process was stopped in between: then what was just written is in another holder's way.
        age = (after - before).total_seconds()
        if age > self._record.ttl_seconds and not self._shared:
            self._store.delete([renewed.key])
            raise self._lose(f"it could not be renewed for {age:.0f} s")
        self._record = renewed
        return after

    def _stored(self) -> datetime:
        """When the store took the claim last."""
        stat = self._store.stat(self._record.key)
        if stat is None:
            raise self._lose("it was removed (vbackup unlock?)")
        return stat.modified

    def _lose(self, why: str) -> Locked:
        self._lost = why
        return Locked(f"the {self._record.name} lease was lost: {why}", hint="run again")

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


def acquire(store: ObjectStore, clock: Clock, name: LeaseName, *, ttl: float = TTL) -> Lease:
    """Take the lease; claims of holders that are gone are removed. Raises Locked with the
    holder."""
    for attempt in range(1, _ATTEMPTS + 1):
        record = _new_record(name, clock.now(), ttl)
        rival, now = _claim(store, record)
        if rival is None:
            lease = Lease(store, clock, record)
            lease.start()
            return lease
        # Only claims just made can be waited out: they may withdraw like this one.
        if attempt == _ATTEMPTS or now - rival.modified > timedelta(seconds=10):
            raise Locked(
                rival.describe(), hint=f"wait for it, or remove it with: vbackup unlock {name}"
            )
        clock.sleep(random.uniform(0.05, 0.5) * attempt)  # noqa: S311 - no secret
    raise Locked(f"the {name} lease is contended", hint="run again")


def share(
    store: ObjectStore, clock: Clock, name: LeaseName, *, backup: str = "", ttl: float = TTL
) -> Lease:
    """Hold a lease beside others of its name. Raises what the store says to one who may not
    write."""
    record = replace(_new_record(name, clock.now(), ttl), backup=backup)
    lease = Lease(store, clock, record, shared=True)
    store.put(record.key, msgspec.json.encode(record))
    lease.start()
    return lease


def _claim(store: ObjectStore, record: LeaseRecord) -> tuple[Claim | None, datetime]:
    """Put the claim; withdraw it and return the rival when there is a live one. Also the store's
    time of it all."""
    try:
        store.put(record.key, msgspec.json.encode(record))
        stat = store.stat(record.key)
        now = stat.modified if stat else record.heartbeat_at
        rival = _clear_stale(store, record, now)
    except BaseException:
        with suppress(VbackupError):
            store.delete([record.key])
        raise
    if rival is not None:
        store.delete([record.key])
    return rival, now


def _clear_stale(store: ObjectStore, own: LeaseRecord, now: datetime) -> Claim | None:
    others = [claim for claim in claims(store, now, own.name) if claim.key != own.key]
    stale = [claim.key for claim in others if claim.stale]
    if stale:
        store.delete(stale)
    return next((claim for claim in others if not claim.stale), None)


def _new_record(name: LeaseName, now: datetime, ttl: float) -> LeaseRecord:
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
