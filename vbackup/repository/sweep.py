"""Sweeping: packs that no backup needs go, half-empty ones are rewritten, the index follows.

A writer never relies on a pack that a sweep deletes. The sweep announces what it will delete
and then looks for writers; a writer takes its lease and then reads the announcements. Whichever
came first, one of them sees the other. A writer that came and went in between has published by
then, so the manifests are read once more before anything is deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from vbackup.errors import Damaged, NotFound, Refused
from vbackup.ports import ObjectStore
from vbackup.repository import lease, listing, quarantine, reindex
from vbackup.repository.catalog import Catalog
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
    """Counts of packs, and stored bytes. `young` are kept for an interrupted backup."""

    deleted: int = 0
    repacked: int = 0
    young: int = 0
    kept: int = 0
    bytes_freed: int = 0
    bytes_kept: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What would be done with each stored pack; all sizes in bytes."""

    sizes: dict[bytes, int]
    delete: frozenset[bytes]
    repack: frozenset[bytes]
    young: frozenset[bytes]

    def result(self) -> SweepResult:
        """The plan in numbers."""
        going = self.delete | self.repack
        total = sum(self.sizes.values())
        freed = sum(self.sizes[pack] for pack in self.delete)
        return SweepResult(
            deleted=len(self.delete),
            repacked=len(self.repack),
            young=len(self.young),
            kept=len(self.sizes) - len(going),
            bytes_freed=freed,
            bytes_kept=total - freed,
        )


def no_writers(repository: Repository) -> None:
    """Raises Deferred while a backup runs. Claims of writers that are gone are removed, so that
    one that comes back to life notices and does not publish."""
    for claim in lease.claims(repository.store, repository.clock, "writer"):
        if not claim.stale:
            who = claim.record.describe() if claim.record else claim.key
            raise Deferred(f"a backup is running ({who}): packs stay until the next prune")
        repository.store.delete([claim.key])


def delete(store: ObjectStore, keys: Iterable[str]) -> dict[str, str]:
    """Delete objects; those that the store refuses to delete, with its reason."""
    refused: dict[str, str] = {}
    waiting = list(keys)
    for start in range(0, len(waiting), _BATCH):
        batch = waiting[start : start + _BATCH]
        try:
            store.delete(batch)
        except Refused:
            for key in batch:  # One locked object must not keep the others.
                try:
                    store.delete([key])
                except Refused as error:
                    refused[key] = str(error)
    return refused


class Sweep:
    """One sweep over what a catalog knows. Raises Deferred wherever it could be unsafe."""

    def __init__(self, repository: Repository, catalog: Catalog, kept: Sequence[str]) -> None:
        self._repository = repository
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
            except (Damaged, Refused) as error:
                raise Deferred(f"{error}: nobody knows which packs it needs, so all stay") from None
            self._marked.add(backup_id)

    # ------------------------------------------------------------ the plan

    def plan(self, freed: set[bytes], *, grace: float, repack_below: float) -> SweepPlan:
        """Decide for every stored pack. `freed` are packs that the backups just removed used."""
        sizes = {pack: stat.size for pack, stat in self._catalog.stored.items()}
        used = self._marks.bytes_by_pack()
        limit = self._repository.clock.now() - timedelta(seconds=grace)
        delete: set[bytes] = set()
        again: set[bytes] = set()
        young: set[bytes] = set()
        bad = self._catalog.damaged | self._catalog.missing
        for pack, stat in self._catalog.stored.items():
            if not used.get(pack):
                old = pack in freed or pack in bad or stat.modified <= limit
                (delete if old else young).add(pack)
            elif pack in bad or used[pack] < repack_below * stat.size:
                again.add(pack)
        again |= self._small(used, set(sizes) - delete - again - young)
        return SweepPlan(sizes, frozenset(delete), frozenset(again), frozenset(young))

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
        self._repository.confirm("pruner")
        reindex.rewrite(self._store, self._repository.seal, self._catalog, without=victims)
        refused = self._delete_packs(victims)
        quarantine.forget_doomed(self._store)
        result = plan.result()
        gone = sum(plan.sizes[pack] for pack in victims if pack_key(pack) not in refused)
        result.deleted, result.repacked = len(victims) - len(moved) - len(refused), len(moved)
        result.bytes_freed = gone - fresh_bytes
        result.bytes_kept = sum(plan.sizes.values()) - result.bytes_freed
        result.refused = refused
        return result

    def _claimed_meanwhile(self) -> set[bytes]:
        """Packs that backups published since the marking rely on."""
        self._marks = Marks(self._catalog.index, self._repository.reader)
        self._mark(listing.ids(self._store))
        return self._marks.packs()

    def _delete_packs(self, victims: set[bytes]) -> dict[str, str]:
        refused = delete(self._store, map(pack_key, victims))
        stay = {pack for pack in victims if pack_key(pack) in refused}
        reindex.index_packs(self._store, self._repository.seal, stay)
        quarantine.forget_damaged(self._store, victims - stay)
        return refused
