"""`vbackup prune`: apply the retention policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.clock import format_time
from vbackup.quantity import size
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.repository.prune import PruneReport


@options.command("prune", short_help="Apply the retention policy.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why.")
@click.option("--now", is_flag=True, help="Do not wait for retention.delete_after.")
@options.pass_session
def command(session: Session, dry_run: bool, now: bool) -> None:
    """Apply the retention policy, and remove everything that no backup needs.

    The newest good backup and pinned ones always stay. Safe beside running backups, restores and
    verifications. What the removed backups alone needed is deleted by the first prune after
    retention.delete_after.
    """
    from vbackup.repository.prune import PruneOptions, prune

    repository = open_repository(session.config.repository, session.clock)
    with session.reporter.step("prune", unit="backups"):
        policy = session.config.retention
        wait = 0.0 if now else policy.delete_after
        report = prune(repository, policy, PruneOptions(dry_run=dry_run, delete_after=wait))
    emit(session, _document(report), lambda screen: _render(screen, report))


def _document(report: PruneReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "backups": [
            {
                "id": decision.backup.id,
                "at": decision.backup.at,
                "keep": decision.keep,
                "reasons": decision.reasons,
            }
            for decision in report.decisions
        ],
        "removed": report.removed,
        "refused": report.refused | report.packs.refused,
        "packs_deleted": report.packs.deleted,
        "packs_repacked": report.packs.repacked,
        "packs_kept": report.packs.kept,
        "packs_kept_young": report.packs.young,
        "packs_waiting": report.packs.waiting,
        "bytes_waiting": report.packs.bytes_waiting,
        "bytes_locked": report.packs.bytes_locked,
        "locked_until": report.packs.locked_until,
        "bytes_freed": report.packs.bytes_freed,
        "bytes_kept": report.packs.bytes_kept,
        "deferred": report.deferred,
    }


def _render(screen: Screen, report: PruneReport) -> None:
    goes = "would go" if report.dry_run else "removed"
    screen.table(
        ("ID", "TAKEN", "", "WHY"),
        [
            (
                decision.backup.id,
                screen.moment(decision.backup.at),
                "kept" if decision.keep else goes,
                ", ".join(decision.reasons),
            )
            for decision in report.decisions
        ],
        styles=["" if decision.keep else "yellow" for decision in report.decisions],
    )
    verb = "would free" if report.dry_run else "freed"
    screen.line(f"{verb} {size(report.packs.bytes_freed)}, keeps {size(report.packs.bytes_kept)}")
    if report.packs.locked_until:
        screen.line(
            f"{size(report.packs.bytes_locked)} of it stay in the store, locked (Object Lock); the"
            f" last until {format_time(report.packs.locked_until)}"
        )
    if report.packs.waiting:
        screen.line(
            f"{size(report.packs.bytes_waiting)} wait for retention.delete_after"
            " (vbackup prune --now does not)"
        )
    if report.deferred:
        screen.line(f"left for the next prune: {report.deferred}", "yellow")
    for key, reason in (report.refused | report.packs.refused).items():
        screen.line(f"not deleted: {key}: {reason}", "yellow")
