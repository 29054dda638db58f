"""Prune: the retention policy applied, and everything that no backup needs removed.

Delete order: manifests, indexes, packs; a crash anywhere leaves whole backups and garbage that
the next prune finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from vbackup.config import RetentionConfig
from vbackup.errors import Damaged, NotFound, VbackupError
from vbackup.model.manifest import CheckRecord, Manifest
from vbackup.ports import ObjectStore
from vbackup.repository import listing, reading, retention
from vbackup.repository import manifest as manifests
from vbackup.repository.catalog import Catalog
from vbackup.repository.marks import Marks, is_whole
from vbackup.repository.repository import Repository
from vbackup.repository.retention import Decision
from vbackup.repository.sweep import (
    Deferred,
    Sweep,
    SweepResult,
    delete,
    live_readers,
    no_writers,
)


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """`grace`: packs that no backup ever referred to are kept this many seconds, because an
    interrupted backup continues from them. `delete_after`: packs stay this many seconds after the
    last backup that needed them went, for readers who cannot write a lease. `repack_below`: packs
    of which a smaller share is in use are rewritten."""

    dry_run: bool = False
    grace: float = 86_400.0
    delete_after: float = 0.0
    repack_below: float = 0.5


@dataclass(slots=True)
class PruneReport:
    """What a prune did, or in a dry run would do.

    `removed` are backup ids; `refused` are objects that the store would not delete (Object
    Lock), with its reason; `deferred` says why packs stay for the next prune, when they do."""

    dry_run: bool
    decisions: list[Decision]
    removed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    packs: SweepResult = field(default_factory=SweepResult)
    deferred: str = ""


def prune(
    repository: Repository, policy: RetentionConfig, options: PruneOptions | None = None
) -> PruneReport:
    """Apply the policy, then sweep. Holds the `pruner` lease. Raises Locked."""
    options = options or PruneOptions()
    with repository.lease("pruner"), _under_lease(repository):
        catalog = repository.load_catalog()
        claims = reading.readers(repository.store, repository.moment("pruner"))
        decisions = reading.spared(_decide(repository, catalog, policy), claims)
        report = PruneReport(options.dry_run, decisions)
        try:
            no_writers(repository)
            live_readers(repository)
        except Deferred as reason:
            report.deferred = str(reason)
        going = _load(repository, [item.backup.id for item in decisions if not item.keep])
        gone = _referred(repository, catalog, going)
        _remove_backups(repository, going, report)
        if not report.deferred:
            _sweep(repository, catalog, gone, going, options, report)
    return report


@contextmanager
def _under_lease(repository: Repository) -> Iterator[None]:
    """What a prune stumbles over that lost its lease on the way is that others went on."""
    try:
        yield
    except VbackupError:
        repository.confirm("pruner")
        raise


def _decide(repository: Repository, catalog: Catalog, policy: RetentionConfig) -> list[Decision]:
    """The policy's decisions. A backup that lacks chunks is not good, whatever was found of it
    before: nothing goes in its favour."""
    backups = repository.backups()
    while True:
        decisions = retention.decide(backups, policy)
        if all(item.keep for item in decisions):
            return decisions
        trusted = [item.backup.id for item in decisions if retention.LAST_GOOD in item.reasons]
        bad = {name for name in trusted if not _whole(repository, catalog, name)}
        if not bad:
            return decisions
        failed = CheckRecord("manifest", repository.clock.now(), ok=False)
        backups = [replace(b, verified=failed) if b.id in bad else b for b in backups]


def _whole(repository: Repository, catalog: Catalog, backup_id: str) -> bool:
    try:
        manifest = repository.load(backup_id)
    except (Damaged, NotFound):
        return False
    return is_whole(catalog.index, repository.reader, manifest, catalog.missing)


def _load(repository: Repository, ids: Sequence[str]) -> list[Manifest]:
    loaded = []
    for backup_id in ids:
        with suppress(NotFound):
            loaded.append(repository.load(backup_id))
    return loaded


def _referred(repository: Repository, catalog: Catalog, going: Sequence[Manifest]) -> Marks:
    """What the backups to remove refer to, as far as their recipes can be read."""
    marks = Marks(catalog.index, repository.reader)
    for manifest in going:
        with suppress(Damaged):
            marks.manifest(manifest)
    return marks


def _remove_backups(repository: Repository, going: Sequence[Manifest], report: PruneReport) -> None:
    keys = {manifests.manifest_key(manifest.id): manifest.id for manifest in going}
    if report.dry_run:
        report.removed = list(keys.values())
        return
    report.refused |= delete(repository, keys)
    report.removed = [backup_id for key, backup_id in keys.items() if key not in report.refused]
    report.refused |= delete(repository, _beside_no_manifest(repository.store))


def _beside_no_manifest(store: ObjectStore) -> list[str]:
    """Check records and pins of backups that are gone."""
    found = [stat.key for stat in store.scan(manifests.PREFIX)]
    ids = {key.split("/")[1] for key in found}
    listed = {key.split("/")[1] for key in found if key.endswith("/manifest")}
    # A listing may lag; a request for the manifest itself does not.
    gone = {item for item in ids - listed if store.stat(manifests.manifest_key(item)) is None}
    return [key for key in found if key.split("/")[1] in gone]


def _sweep(
    repository: Repository,
    catalog: Catalog,
    gone: Marks,
    going: Sequence[Manifest],
    options: PruneOptions,
    report: PruneReport,
) -> None:
    listed = {item.backup.id for item in report.decisions} | set(listing.ids(repository.store))
    kept = sorted(listed - set(report.removed))
    try:
        sweep = Sweep(repository, catalog, kept, going)
        plan = sweep.plan(
            gone,
            grace=options.grace,
            repack_below=options.repack_below,
            delete_after=options.delete_after,
        )
        report.packs = plan.result()
        if not options.dry_run:
            report.packs = sweep.carry_out(plan)
            report.refused |= report.packs.refused
    except Deferred as reason:
        report.deferred = str(reason)
