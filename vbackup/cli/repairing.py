"""`vbackup reconcile --repair`: what is asked before points are deleted, and where copies go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile
from vbackup.cli.kept import kept_file
from vbackup.cli.reembed import reembed_line
from vbackup.errors import Refused
from vbackup.reconciling import points_of_backup, repairer
from vbackup.wiring import open_repository, work_directory

if TYPE_CHECKING:
    from vbackup.cli.reconcile import Asked
    from vbackup.cli.session import Session
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.engine.repair import RepairKind, RepairResult
    from vbackup.engine.revival import FromBackup
    from vbackup.model.finding import Finding
    from vbackup.model.manifest import Manifest
    from vbackup.model.patch import Reembed
    from vbackup.ports import Repository

DELETING = ("orphans", "not_live", "duplicates")
REPAIRABLE = ("missing", "orphans", "stale", "ahead", "not_live", "duplicates")
RENEWED = {
    "missing": ("missing", "wrong_count"),
    "stale": ("stale",),
    "ahead": ("ahead",),
}
"""By what is asked for: the counts of those rows whose points a backup may have."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done, and where the rows to embed again stand (None when there are none)."""

    result: RepairResult
    reembed_file: Path | None = None

    def document(self) -> dict[str, object]:
        """As scripts read it."""
        return asdict(self.result) | {"reembed_file": self.reembed_file}


def asked_kinds(text: str) -> frozenset[RepairKind]:
    """Raises Usage."""
    from vbackup.engine.repair import repair_kinds

    return repair_kinds(text)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The backup that vectors may come from."""

    repository: Repository
    manifest: Manifest


def chosen_backup(session: Session, wanted: str) -> Chosen:
    """Find it before anything is compared. Raises NotFound, and Refused when it holds no points."""
    repository = open_repository(session.repository_config, session.clock)
    manifest = repository.load(repository.resolve(wanted))
    if manifest.qdrant is None:
        raise Refused(f"backup {manifest.id} holds no Qdrant collections to take vectors from")
    return Chosen(repository, manifest)


def repair(
    session: Session,
    asked: Asked,
    kinds: frozenset[RepairKind],
    result: ReconcileResult,
    findings: Iterable[Finding],
    scratch: Path,
    chosen: Chosen | None = None,
) -> Repaired:
    """Repair what was found. Raises Refused: not confirmed, or more than the guard allows."""
    from vbackup.engine.repair import RepairOptions, RepairResult

    if result.clean:
        return Repaired(RepairResult())
    doomed = sum(getattr(r, kind) for r in result.reports for kind in DELETING if kind in kinds)
    if doomed:
        session.confirm(f"this deletes up to {doomed:,} points", given=asked.yes)
    wanted = RepairOptions(kinds, kept_file(session, "removed"), asked.force, asked.tenant)
    path = asked.reembed or kept_file(session, "reembed")
    with LineFile(path) as file:

        def reembed(line: Reembed) -> None:
            file.write(reembed_line(line))

        with (
            _stored(session, chosen, kinds, result) as stored,
            repairer(
                session.config, session.reporter, session.clock, reembed, scratch, stored
            ) as fix,
        ):
            done = fix.run(result.targets, result.reports, lambda: findings, wanted)
    if not file.count and asked.reembed is None:
        path.unlink()
    return Repaired(done, path if path.exists() else None)


def _stored(
    session: Session,
    chosen: Chosen | None,
    kinds: frozenset[RepairKind],
    result: ReconcileResult,
) -> AbstractContextManager[FromBackup | None]:
    """The backup's points of those links that need some; shard snapshots are large to read."""
    counts = {count for kind in kinds for count in RENEWED.get(kind, ())}
    short = {r.name for r in result.reports if any(getattr(r, count) for count in counts)}
    if chosen is None or not short:
        return nullcontext()
    collections = {
        name
        for target in result.targets
        if target.link.name in short
        for name in target.collections
    }
    return points_of_backup(
        chosen.repository,
        chosen.manifest,
        collections,
        session.reporter,
        work_directory(session.config),
    )


def unrepaired(result: ReconcileResult, kinds: frozenset[RepairKind]) -> list[str]:
    """The kinds that were found and not asked for, and those that nothing repairs."""
    return [
        kind
        for kind in (*REPAIRABLE, "no_reference")
        if kind not in kinds and any(getattr(report, kind) for report in result.reports)
    ]
