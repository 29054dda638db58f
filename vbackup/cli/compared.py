"""What `reconcile` prints: the table of links, a few findings, what was repaired."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.documents import reconcile_document
from vbackup.cli.junit import Case, write
from vbackup.cli.links import KINDS, render_links

if TYPE_CHECKING:
    from vbackup.cli.evidence import Evidence
    from vbackup.cli.repairing import Repaired
    from vbackup.cli.screen import Screen
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.model.finding import Finding, LinkReport


def document(result: ReconcileResult, evidence: Evidence) -> dict[str, object]:
    """The result as scripts read it (contract: `reconcile`)."""
    return reconcile_document(result) | {
        "findings_written": evidence.written,
        "truncated": evidence.truncated,
    }


def render(
    screen: Screen, result: ReconcileResult, evidence: Evidence, repaired: Repaired | None
) -> None:
    render_links(screen, result.reports)
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")
    if evidence.examples:
        screen.line()
        screen.table(
            ("FINDING", "LINK", "KEY", "POINT", "ROW VERSION", "POINT VERSION"),
            [_line(found) for found in evidence.examples],
        )
    if evidence.seen > len(evidence.examples):
        screen.line(f"and {evidence.seen - len(evidence.examples):,} more")
    if repaired:
        _render_repaired(screen, repaired)


def write_junit(path: Path, reports: Sequence[LinkReport]) -> None:
    write(path, "vbackup reconcile", [_case(report) for report in reports])


def _line(found: Finding) -> tuple[object, ...]:
    # Where points are named by the row's key, it is shown once.
    point = "" if found.point is None or str(found.point) == found.key else found.point
    return (
        found.kind,
        found.link,
        found.key or "",
        point,
        found.row_version or "",
        found.point_version or "",
    )


def finding_line(found: Finding) -> str:
    """One finding in one line."""
    kind, link, key, point, row, at = _line(found)
    parts = [str(kind), str(link), f"key {key}" if key else "", f"point {point}" if point else ""]
    versions = f"row {row or 'none'}, point {at or 'none'}" if row or at else ""
    return "  ".join(part for part in (*parts, versions, found.detail) if part)


def _render_repaired(screen: Screen, repaired: Repaired) -> None:
    done = repaired.result
    screen.line()
    deleted = ", ".join(f"{count:,} {kind}" for kind, count in done.deleted.items() if count)
    screen.pairs(
        [
            ("deleted", deleted or "nothing"),
            ("kept a copy in", done.removed_file),
            ("from the backup", f"points of {done.revived:,} rows" if done.revived else None),
            ("to re-embed", f"{done.reembed:,} rows, see {repaired.reembed_file}")
            if repaired.reembed_file
            else ("to re-embed", "nothing"),
            ("healed meanwhile", f"{done.skipped:,}" if done.skipped else None),
        ]
    )
    for warning in done.warnings:
        screen.line(f"warning: {warning}", "yellow")


def _case(report: LinkReport) -> Case:
    if report.clean:
        return Case(report.name)
    counts = [(getattr(report, field), title) for field, title in KINDS]
    found = [f"{count:,} {title}" for count, title in counts if count]
    return Case(report.name, failure=", ".join(found))
