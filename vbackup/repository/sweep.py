"""Sweeping: packs that no backup needs go, half-empty ones are rewritten, the index follows.

A writer never relies on a pack that a sweep deletes. The sweep announces what it will delete
and then looks for writers; a writer takes its lease and then reads the announcements. Whichever
came first, one of them sees the other. A writer that came and went in between has published by
then, so the manifests are read once more before anything is deleted.

What a backup that went has needed waits for `delete_after`, neither deleted nor rewritten: its
readers may have keys that cannot write a lease. Writers may use it again meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vbackup.errors import Damaged, NotFound, Refused, Usage
from vbackup.model.manifest import Manifest
from vbackup.repository import lease, listing, locks, quarantine, reading, reindex
from vbackup.repository.catalog import Catalog
from vbackup.repository.lease import Claim
from vbackup.repository.marks import Marks
from vbackup.repository.packs import pack_key
from vbackup.repository.repack import repack
from vbackup.repository.repository import Repository

_SMALL_PACKS = 16
_BATCH = 500


class Deferred(Exception):
    """Packs must stay for now; the text says why."""


@dataclass(slots=True)
class SweepResult:
    """Counts of packs, and stored bytes. `young` are kept for an interrupted backup, `waiting`
    until those who may still read them unseen have ended. `locked` are deleted ones whose bytes
    the store keeps until their retention ends."""

    deleted: int = 0
    repacked: int = 0
    young: int = 0
    waiting: int = 0
    kept: int = 0
    bytes_freed: int = 0
    bytes_kept: int = 0
    bytes_waiting: int = 0
    bytes_locked: int = 0
    locked_until: datetime | None = None
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What would be done with each stored pack; all sizes in bytes. `used`: of it by backups.
    `waiting`: when the last backup went that needed more of it."""

    sizes: dict[bytes, int]
    used: dict[bytes, int]
    delete: frozenset[bytes]
    repack: frozenset[bytes]
    young: frozenset[bytes]
    waiting: dict[bytes, datetime]

    def result(self) -> SweepResult:
        """The plan in numbers."""
        going = self.delete | self.repack
        total = sum(self.sizes.values())
        freed = sum(self.sizes[pack] for pack in self.delete)
        return SweepResult(
            deleted=len(self.delete),
            repacked=len(self.repack),
            young=len(self.young),
            waiting=len(self.waiting),
            kept=len(self.sizes) - len(going),
            bytes_freed=freed,
            bytes_kept=total - freed,
            bytes_waiting=sum(self.sizes[pack] - self.used[pack] for pack in self.waiting),
        )


def no_writers(repository: Repository) -> None:
    """Raises Deferred while a backup runs. Claims of writers that are gone are removed, so that
    one that comes back to life notices and does not publish."""
    for claim in lease.claims(repository.store, repository.moment("pruner"), "writer"):
        if not claim.stale:
            raise Deferred(
                f"a backup is running ({claim.describe()}): packs stay until the next prune"
            )
        repository.store.delete([claim.key])


def live_readers(repository: Repository) -> list[Claim]:
    """Who reads which backup. Raises Deferred for a claim that does not say."""
    found = reading.readers(repository.store, repository.moment("pruner"))
    for claim in found:
        if claim.record is None or not claim.record.backup:
            raise Deferred(
                f"somebody reads ({claim.describe()}) and nobody knows what: packs stay until"
                " the next prune"
            )
    return found


def delete(repository: Repository, keys: Iterable[str]) -> dict[str, str]:
    """Delete objects; those that the store refuses to delete, with its reason. Raises Locked when
    the lease was lost: what was decided under it may be wrong by now."""
    refused: dict[str, str] = {}
    waiting = list(keys)
    for start in range(0, len(waiting), _BATCH):
        batch = waiting[start : start + _BATCH]
        repository.confirm("pruner")
        try:
            repository.store.delete(batch)
        except Refused:
            for key in batch:  # One locked object must not keep the others.
                try:
                    repository.store.delete([key])
                except Refused as error:
                    refused[key] = str(error)
    return refused


class Sweep:
    """One sweep over what a catalog knows. Raises Deferred wherever it could be unsafe.

    `kept` are the backups that stay, `going` those whose manifests have just been removed."""

    def __init__(
        self,
        repository: Repository,
        catalog: Catalog,
        kept: Sequence[str],
        going: Sequence[Manifest] = (),
    ) -> None:
        self._repository = repository
        self._going = {manifest.id: manifest for manifest in going}
        self._store = repository.store
        self._catalog = catalog
        self._marks = Marks(catalog.index, repository.reader)
        self._marked: set[str] = set()
        self._mark(kept)

    def _mark(self, ids: Iterable[str]) -> None:
        for backup_id in ids:
            if backup_id in self._marked:
                continue
            try:
                self._marks.manifest(self._repository.load(backup_id))
            except NotFound:
                continue
            except (Damaged, Refused, Usage) as error:  # Usage: a name that no backup has.
                raise Deferred(f"{error}: nobody knows which packs it needs, so all stay") from None
            self._marked.add(backup_id)

    # ------------------------------------------------------------ the plan

    def plan(
        self, gone: Marks, *, grace: float, repack_below: float, delete_after: float = 0.0
    ) -> SweepPlan:
        """Decide for every stored pack. `gone` is what the backups just removed referred to."""
        freed = gone.packs_beyond(self._marks)
        stored = self._catalog.stored
        sizes = {pack: stat.size for pack, stat in stored.items()}
        marked = self._marks.bytes_by_pack()
        used = {pack: marked.get(pack, 0) for pack in stored}
        now = self._repository.moment("pruner")
        unused = {pack for pack in stored if not used[pack]}
        since = quarantine.unused_packs(self._store, self._repository.seal)
        bad = self._catalog.damaged | self._catalog.missing
        # A prune that was stopped on its way may come back to life and delete what it announced:
        # nobody relies on those packs, and before the announcement goes they must be gone.
        doomed = self._catalog.doomed & unused
        young = {
            pack
            for pack in unused - freed - bad - doomed - since.keys()
            if stored[pack].modified > now - timedelta(seconds=grace)
        }
        ended = {pack: min(at, now) for pack, at in since.items() if pack in stored}
        ended |= dict.fromkeys(unused - young - since.keys(), now)
        ended |= dict.fromkeys(freed & stored.keys(), now)
        limit = now - timedelta(seconds=delete_after)
        waiting = {pack: at for pack, at in ended.items() if at > limit and pack not in doomed}
        scanty = {pack for pack in stored if used[pack] < repack_below * sizes[pack]}
        again = (scanty | bad) & (stored.keys() - unused)
        again |= self._small(used, stored.keys() - unused - again)
        again -= self._being_read() | waiting.keys()
        delete = frozenset(unused - young - waiting.keys())
        return SweepPlan(sizes, used, delete, frozenset(again), frozenset(young), waiting)

    def _being_read(self) -> set[bytes]:
        """The packs of backups that somebody reads: they are not rewritten under him."""
        marks = Marks(self._catalog.index, self._repository.reader)
        for claim in live_readers(self._repository):
            backup_id = claim.record.backup if claim.record else ""
            with suppress(NotFound, Damaged, Refused):
                marks.manifest(self._going.get(backup_id) or self._repository.load(backup_id))
        return marks.packs()

    def _small(self, used: dict[bytes, int], packs: set[bytes]) -> set[bytes]:
        """Small packs, when there are enough of them: each small backup leaves one behind."""
        limit = self._repository.options.pack_size // 4
        small = {pack for pack in packs if used[pack] < limit}
        return small if len(small) >= _SMALL_PACKS else set()

    # ------------------------------------------------------------ the deed

    def carry_out(self, plan: SweepPlan) -> SweepResult:
        """Repack, announce, look for writers, rewrite the index, delete."""
        no_writers(self._repository)
        moved, fresh_bytes = repack(self._repository, plan.repack, self._marks)
        victims = set(plan.delete | moved)
        if victims:
            announced = secrets.token_hex(8)
            quarantine.doom(self._store, self._repository.seal, announced, victims)
            no_writers(self._repository)
            victims -= self._claimed_meanwhile()
        now = self._repository.moment("pruner")
        spared = dict.fromkeys(plan.delete - victims, now)
        quarantine.note_unused(self._store, self._repository.seal, {**plan.waiting, **spared})
        reindex.rewrite(self._store, self._repository.seal, self._catalog, without=victims)
        held = locks.locked(self._store, map(pack_key, victims))
        refused = self._delete_packs(victims)
        self._repository.confirm("pruner")
        quarantine.forget_doomed(self._store)
        result = plan.result()
        gone = sum(plan.sizes[pack] for pack in victims if pack_key(pack) not in refused)
        result.deleted = sum(pack_key(p) not in refused for p in victims & plan.delete)
        result.repacked = len(moved)
        result.bytes_freed = gone - fresh_bytes
        result.bytes_kept = sum(plan.sizes.values()) - result.bytes_freed
        result.refused = refused
        result.bytes_locked = sum(plan.sizes[p] for p in victims if pack_key(p) in held)
        result.locked_until = max(held.values(), default=None)
        return result

    def _claimed_meanwhile(self) -> set[bytes]:
        """Packs that backups published since the marking rely on, or that somebody reads."""
        self._marks = Marks(self._catalog.index, self._repository.reader)
        self._mark(listing.ids(self._store))
        return self._marks.packs() | self._being_read()

    def _delete_packs(self, victims: set[bytes]) -> dict[str, str]:
        refused = delete(self._repository, map(pack_key, victims))
        stay = {pack for pack in victims if pack_key(pack) in refused}
        reindex.index_packs(self._store, self._repository.seal, stay)
        quarantine.forget_damaged(self._store, victims - stay)
        return refused
