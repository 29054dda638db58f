"""Repair of what a reconcile found: points that must go, and points that must come.

Rows are never touched. Points that must go (orphans, points of rows that are not live,
duplicates) are removed by `engine.removal`; rows that need new points (missing, stale, ahead)
get them from a backup that still has that version (`engine.revival`), else they go on the
re-embed list for the application's indexer. Everything is looked at again right before, so
that a second run finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vbackup.engine.apply import RUNAWAY_SHARE
from vbackup.engine.confirm import batches, identity
from vbackup.engine.editor import PointEditor
from vbackup.engine.links import Target
from vbackup.engine.owners import Owner, rows_of
from vbackup.engine.removal import Removal, Removed, RemovedPoints
from vbackup.engine.reread import Reread
from vbackup.engine.revival import FromBackup, Revival
from vbackup.errors import Refused, Usage
from vbackup.model.finding import Finding, FindingKind, LinkReport
from vbackup.model.patch import Reembed
from vbackup.ports import Reporter

RepairKind = Literal["orphans", "not_live", "stale", "ahead", "missing", "duplicates"]
KINDS: tuple[RepairKind, ...] = get_args(RepairKind)

REMOVE_BATCH = 100
"""Points removed at once: small, so that the look right before is fresh."""

REEMBED_BATCH = 1_000

RUNAWAY_FLOOR = 100
"""Up to this many points a repair may remove any share of a link. Lower than a restore's: here
the points are live, and a wrong `where` in a link makes orphans of them all."""

_REPAIRS: dict[FindingKind, RepairKind] = {
    "orphan": "orphans",
    "not_live": "not_live",
    "duplicate": "duplicates",
    "stale": "stale",
    "ahead": "ahead",
    "missing": "missing",
    "wrong_count": "missing",
}
_REMOVES: tuple[RepairKind, ...] = ("orphans", "not_live", "duplicates")


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """What to repair; `force` goes beyond the runaway guard; `removed_file` gets every point
    that is deleted or overwritten. `tenant` as for the reconcile: what has moved to another
    tenant since is left alone."""

    kinds: frozenset[RepairKind]
    removed_file: Path
    force: bool = False
    tenant: str | None = None


@dataclass(slots=True)
class RepairResult:
    """What was done, in points and rows. `skipped` were in order when looked at again,
    `put_back` were deleted and at once found to be right again."""

    deleted: dict[str, int] = field(default_factory=dict)
    revived: int = 0
    reembed: int = 0
    skipped: int = 0
    put_back: int = 0
    removed_file: Path | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair of a live pair. `reembed` gets each row that the indexer must do again."""

    reread: Reread
    editor: PointEditor
    reporter: Reporter
    reembed: Callable[[Reembed], None] = lambda _: None
    from_backup: FromBackup | None = None

    def run(
        self,
        targets: Iterable[Target],
        reports: Iterable[LinkReport],
        findings: Callable[[], Iterable[Finding]],
        options: RepairOptions,
    ) -> RepairResult:
        """Repair what a reconcile reported. `findings` gives its findings anew each time.

        Raises Refused, before anything is changed, when a link would lose more than a tenth of
        its points and `force` is not set."""
        result = RepairResult()
        by_name = {target.link.name: target for target in targets}
        self._warn_kept(by_name, reports := list(reports), options, result)
        if not options.force:
            guard(by_name, reports, options.kinds)
        removed = RemovedPoints(options.removed_file)
        try:
            removal = Removal(self.reread, self.editor, removed, options.tenant)
            for link, kinds in by_name.items():
                self._remove(kinds, _of(findings(), link), options, removal, result)
                self._renew(kinds, _of(findings(), link), options, removal, result)
        finally:
            removed.close()
        if removed.path.exists():
            result.removed_file = removed.path
        return result

    def _remove(
        self,
        target: Target,
        findings: Iterable[Finding],
        options: RepairOptions,
        removal: Removal,
        result: RepairResult,
    ) -> None:
        doomed = (f for f in findings if removes(target, f) and _REPAIRS[f.kind] in options.kinds)
        with self.reporter.step(f"remove points of {target.link.name}", unit="points") as step:
            for batch in batches(doomed, REMOVE_BATCH):
                for kind in dict.fromkeys(finding.kind for finding in batch):
                    same = [finding for finding in batch if finding.kind == kind]
                    self._account(kind, removal.remove(target, same), result)
                step.advance(len(batch))

    def _account(self, kind: FindingKind, removed: Removed, result: RepairResult) -> None:
        name = _REPAIRS[kind]
        result.deleted[name] = result.deleted.get(name, 0) + removed.deleted
        result.skipped += removed.skipped
        result.put_back += removed.put_back

    def _renew(
        self,
        target: Target,
        findings: Iterable[Finding],
        options: RepairOptions,
        removal: Removal,
        result: RepairResult,
    ) -> None:
        broken = (
            f
            for f in findings
            if (kind := _REPAIRS.get(f.kind)) in options.kinds and kind not in _REMOVES
        )
        with self.reporter.step(f"renew points of {target.link.name}", unit="rows") as step:
            for batch in batches(broken, REEMBED_BATCH):
                self._renew_batch(target, batch, removal, result)
                step.advance(len(batch))

    def _renew_batch(
        self, target: Target, batch: Sequence[Finding], removal: Removal, result: RepairResult
    ) -> None:
        asked = {finding.key: finding.kind for finding in batch}
        still = self._still(target, batch, removal.tenant)
        result.skipped += len(asked.keys() - {finding.key for finding in still})
        revived: set[str] = set()
        if self.from_backup and still:
            revival = Revival(self.reread, self.editor, removal, self.from_backup)
            revived = revival.revive(target, still)
            result.revived += len(revived)
        left = [f for f in still if f.key is not None and f.key not in revived]
        self._ask_for(target, left, result)

    def _ask_for(self, target: Target, broken: Sequence[Finding], result: RepairResult) -> None:
        """Put the rows, as they are now, on the re-embed list, each once."""
        rows = self.reread.rows(target, broken)
        places = {owner: at for at, owner in rows_of(target.link, rows, self.reread.aliases)}
        named = rows.collections is not None
        findings = {Owner(f.key or "", f.collection if named else None): f for f in broken}
        for owner, finding in findings.items():
            if (at := places.get(owner)) is None:
                result.skipped += 1
                continue
            version = rows.versions[at] if rows.versions is not None else None
            tenant = rows.tenants[at] if rows.tenants is not None else finding.tenant
            line = Reembed(target.link.name, owner.key, version, tenant, "drift", owner.collection)
            self.reembed(line)
            result.reembed += 1

    def _still(self, target: Target, batch: Sequence[Finding], tenant: str | None) -> list[Finding]:
        """Those findings that are still so, with the evidence of now."""
        asked = {identity(finding) for finding in batch}
        found = self.reread.findings(target, batch, tenant=tenant)
        return [finding for finding in found if identity(finding) in asked]

    def _warn_kept(
        self,
        targets: Mapping[str, Target],
        reports: Iterable[LinkReport],
        options: RepairOptions,
        result: RepairResult,
    ) -> None:
        for report in reports:
            target = targets.get(report.name)
            if target and target.link.not_live == "keep" and "not_live" in options.kinds:
                result.warnings.append(
                    f"link {report.name!r} keeps points of rows that are not live:"
                    f" {report.not_live} left as they are"
                )


def removes(target: Target, finding: Finding) -> bool:
    """Whether the repair of this finding removes a point."""
    if finding.kind == "not_live" and target.link.not_live == "keep":
        return False
    return _REPAIRS.get(finding.kind) in _REMOVES


def guard(
    targets: Mapping[str, Target],
    reports: Iterable[LinkReport],
    kinds: Iterable[RepairKind],
) -> None:
    """Refuse to remove more than a tenth of a link's points (few points are no runaway).

    Raises Refused."""
    for report in reports:
        if report.name not in targets:
            continue
        doomed = _doomed(report, targets[report.name], frozenset(kinds))
        if doomed > max(RUNAWAY_FLOOR, RUNAWAY_SHARE * report.points):
            raise Refused(
                f"the repair would delete {doomed} of {report.points} points"
                f" of link {report.name!r}",
                hint="look at the findings and at the link first; --force deletes all the same",
            )


def _doomed(report: LinkReport, target: Target, kinds: frozenset[RepairKind]) -> int:
    doomed = report.orphans if "orphans" in kinds else 0
    doomed += report.duplicates if "duplicates" in kinds else 0
    if "not_live" in kinds and target.link.not_live == "delete":
        doomed += report.not_live
    return doomed


def repair_kinds(text: str) -> frozenset[RepairKind]:
    """Parse `orphans,missing`, or `all`. Raises Usage."""
    wanted = {part.strip().replace("-", "_") for part in text.split(",") if part.strip()}
    if wanted == {"all"}:
        return frozenset(KINDS)
    chosen = frozenset(kind for kind in KINDS if kind in wanted)
    if not wanted or wanted - set(chosen):
        unknown = ", ".join(sorted(wanted - set(chosen))) or "nothing"
        raise Usage(f"cannot repair {unknown}", hint=f"choose from {', '.join(KINDS)}")
    return chosen


def _of(findings: Iterable[Finding], link: str) -> Iterable[Finding]:
    return (finding for finding in findings if finding.link == link)
