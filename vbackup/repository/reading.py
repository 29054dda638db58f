"""Reading beside a prune: who restores or verifies a backup says so, and what he reads stays.

A reader writes a shared lease that names the backup, and then reads its manifest. A prune keeps
the backups that are being read, and looks for readers once more right before it deletes packs:
a reader who came in between either found no manifest, or has his packs spared. A reader who
may not write goes on without: packs stay for `retention.delete_after` after their last backup.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from vbackup.errors import Damaged, Refused, VbackupError
from vbackup.model.manifest import Manifest
from vbackup.ports import Clock, LeaseName, ObjectStore
from vbackup.repository import lease, listing
from vbackup.repository.codec import Seal
from vbackup.repository.lease import Claim, Lease
from vbackup.repository.retention import Decision

NAME: LeaseName = "reader"


class Readings:
    """The backups that one process reads just now. Thread-safe."""

    def __init__(self, store: ObjectStore, seal: Seal, clock: Clock, ttl: float) -> None:
        self._store = store
        self._seal = seal
        self._clock = clock
        self._ttl = ttl
        self._held: Counter[str] = Counter()
        self._manifests: dict[str, Manifest] = {}
        self._lock = threading.Lock()

    def manifest(self, backup_id: str) -> Manifest | None:
        """The manifest of a backup that is held: a prune may have removed the stored one since."""
        with self._lock:
            return self._manifests.get(backup_id)

    @contextmanager
    def hold(self, backup_id: str) -> Iterator[str]:
        """Hold the lease; what stood in its way, or nothing. Raises NotFound."""
        taken, problem = self._take(backup_id)
        try:
            self._remember(backup_id)
            try:
                yield problem
            finally:
                self._forget(backup_id)
        finally:
            if taken is not None:
                taken.release()

    def _take(self, backup_id: str) -> tuple[Lease | None, str]:
        try:
            taken = lease.share(self._store, self._clock, NAME, backup=backup_id, ttl=self._ttl)
        except VbackupError as error:  # Read-only keys, a full disk: no reason not to restore.
            return None, error.message
        return taken, ""

    def _remember(self, backup_id: str) -> None:
        try:
            found = listing.load(self._store, self._seal, backup_id)
        except (Damaged, Refused):
            found = None  # Whoever loads it is told.
        with self._lock:
            self._held[backup_id] += 1
            if found is not None:
                self._manifests[backup_id] = found

    def _forget(self, backup_id: str) -> None:
        with self._lock:
            self._held[backup_id] -= 1
            if not self._held[backup_id]:
                self._manifests.pop(backup_id, None)


def readers(store: ObjectStore, now: datetime) -> list[Claim]:
    """The claims of readers who are alive, for a pruner; those of others are removed."""
    found = lease.claims(store, now, NAME)
    store.delete([claim.key for claim in found if claim.stale])
    return [claim for claim in found if not claim.stale]


def spared(decisions: Sequence[Decision], claims: Sequence[Claim]) -> list[Decision]:
    """The decisions, but a backup that is being read stays this time."""
    who = {claim.record.backup: claim.record.holder for claim in claims if claim.record}
    return [
        replace(item, keep=True, reasons=(f"being read by {who[item.backup.id]}",))
        if item.backup.id in who and not item.keep
        else item
        for item in decisions
    ]
