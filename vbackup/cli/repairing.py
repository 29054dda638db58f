"""`vbackup reconcile --repair`: what is asked before points are deleted, and where copies go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile
from vbackup.cli.reembed import reembed_line
from vbackup.reconciling import repairer

if TYPE_CHECKING:
    from vbackup.cli.reconcile import Asked
    from vbackup.cli.session import Session
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.engine.repair import RepairKind, RepairResult
    from vbackup.model.finding import Finding
    from vbackup.model.patch import Reembed

DELETING = ("orphans", "not_live", "duplicates")
REPAIRABLE = ("missing", "orphans", "stale", "ahead", "not_live", "duplicates")


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


def repair(
    session: Session,
    asked: Asked,
    kinds: frozenset[RepairKind],
    result: ReconcileResult,
    findings: Iterable[Finding],
    scratch: Path,
) -> Repaired:
    """Repair what was found. Raises Refused: not confirmed, or more than the guard allows."""
    from vbackup.engine.repair import RepairOptions, RepairResult

    if result.clean:
        return Repaired(RepairResult())
    doomed = sum(getattr(r, kind) for r in result.reports for kind in DELETING if kind in kinds)
    if doomed:
        session.confirm(f"this deletes up to {doomed:,} points", given=asked.yes)
    wanted = RepairOptions(kinds, _beside(session, "removed"), asked.force, asked.tenant)
    path = asked.reembed or _beside(session, "reembed")
    with LineFile(path) as file:

        def reembed(line: Reembed) -> None:
            file.write(reembed_line(line))

        with repairer(session.config, session.reporter, session.clock, reembed, scratch) as fix:
            done = fix.run(result.targets, result.reports, lambda: findings, wanted)
    if not file.count and asked.reembed is None:
        path.unlink()
    return Repaired(done, path if path.exists() else None)


def unrepaired(result: ReconcileResult, kinds: frozenset[RepairKind]) -> list[str]:
    """The kinds that were found and not asked for, and those that nothing repairs."""
    return [
        kind
        for kind in (*REPAIRABLE, "no_reference")
        if kind not in kinds and any(getattr(report, kind) for report in result.reports)
    ]


def _beside(session: Session, what: str) -> Path:
    """A new file beside the configuration: what was deleted can be brought back from it."""
    stamp = f"{session.clock.now():%Y%m%dT%H%M%S}"
    return session.settings.path.absolute().parent / f"vbackup-{what}-{stamp}.jsonl"
