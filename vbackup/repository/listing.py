"""What backups there are: summaries, and the id that a person means."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from vbackup.clock import format_time
from vbackup.errors import Damaged, NotFound, Refused, Usage, VbackupError
from vbackup.model.manifest import BackupSummary, CheckRecord, Manifest
from vbackup.ports import ObjectStat, ObjectStore
from vbackup.repository import locks, sealed
from vbackup.repository import manifest as manifests
from vbackup.repository.codec import Seal

_JOBS = 8


@dataclass(slots=True)
class _Found:
    manifest: ObjectStat | None = None
    pinned: bool = False
    check: str = ""


def load(store: ObjectStore, seal: Seal, backup_id: str) -> Manifest:
    """One manifest. Raises NotFound, Damaged, Refused (a newer format)."""
    manifests.check_id(backup_id)
    try:
        data = sealed.fetch(store, manifests.manifest_key(backup_id), manifests.LIMIT)
    except NotFound:
        raise NotFound(f"no backup {backup_id}", hint="vbackup list") from None
    try:
        return manifests.decode(seal, backup_id, data)
    except Damaged as error:
        raise Damaged(f"manifest of backup {backup_id}: {error}", hint=error.hint) from None


def ids(store: ObjectStore) -> list[str]:
    """The ids of all backups, readable or not."""
    return [backup_id for backup_id, found in _scan(store).items() if found.manifest]


def newest(store: ObjectStore, seal: Seal) -> Manifest | None:
    """The manifest that was written last, where it can be read."""
    written = {key: item.manifest.modified for key, item in _scan(store).items() if item.manifest}
    try:
        return load(store, seal, max(written, key=lambda key: written[key])) if written else None
    except (Damaged, NotFound, Refused, Usage):
        return None


def summaries(store: ObjectStore, seal: Seal) -> list[BackupSummary]:
    """All backups, newest first; those whose manifest cannot be read say so."""
    found = {key: item for key, item in _scan(store).items() if item.manifest}
    with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-list") as pool:
        futures = [pool.submit(_summary, store, seal, key, item) for key, item in found.items()]
        listed = [future.result() for future in futures]
    present = [summary for summary in listed if summary is not None]
    return sorted(present, key=lambda summary: (summary.at, summary.id), reverse=True)


def _scan(store: ObjectStore) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for stat in store.scan(manifests.PREFIX):
        backup_id, _, rest = stat.key.removeprefix(manifests.PREFIX).partition("/")
        item = found.setdefault(backup_id, _Found())
        if rest == "manifest":
            item.manifest = stat
        elif rest == "pin":
            item.pinned = True
        elif rest.startswith("checks/"):
            item.check = max(item.check, stat.key)
    return found


def _summary(store: ObjectStore, seal: Seal, backup_id: str, found: _Found) -> BackupSummary | None:
    problem = ""
    manifest = None
    try:
        manifest = load(store, seal, backup_id)
    except NotFound:
        return None  # Pruned since the listing.
    except VbackupError as error:
        if not isinstance(error, (Damaged, Refused)) and error.code != 2:
            raise
        problem = str(error)
    key = manifests.manifest_key(backup_id)
    at = found.manifest.modified if found.manifest else datetime.now(UTC)
    return BackupSummary(
        id=backup_id,
        at=manifest.created_at if manifest else at,
        tags=manifest.tags if manifest else {},
        pinned=found.pinned,
        encrypted=seal.encrypted,
        bytes_logical=sum(a.length for a in manifest.artifacts()) if manifest else 0,
        bytes_unique=manifest.statistics.bytes_uploaded if manifest else 0,
        verified=_check(store, seal, found.check) if found.check else None,
        unreadable=problem,
        locked_until=locks.locked(store, [key]).get(key),
        watermark_at=manifest.watermark.at if manifest else None,
    )


def _check(store: ObjectStore, seal: Seal, key: str) -> CheckRecord | None:
    try:
        return manifests.read_check(store, seal, key)
    except (Damaged, NotFound, Refused):
        return None  # Not worth failing a listing; `verify` reports it.


def resolve(backups: Sequence[BackupSummary], wanted: str, at: datetime | None) -> str:
    """The id meant: see `ports.Repository.resolve`. Unreadable backups are never `latest`."""
    readable = [summary for summary in backups if not summary.unreadable]
    if at is not None:
        readable = [summary for summary in readable if _instant(summary) <= at]
    if wanted == "latest":
        if readable:
            return readable[0].id
        suffix = f" at or before {format_time(at)}" if at else ""
        raise NotFound(f"there is no readable backup{suffix}", hint="vbackup list")
    ids = [summary.id for summary in backups]
    if wanted in ids:
        return wanted
    matches = [backup_id for backup_id in ids if wanted and backup_id.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} backups begin with {wanted}" if matches else f"no backup {wanted}"
    raise NotFound(what, hint="vbackup list")


def _instant(summary: BackupSummary) -> datetime:
    return summary.watermark_at or summary.at
