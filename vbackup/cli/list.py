"""`vbackup list`: the backups, newest first."""

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
    from vbackup.model.manifest import BackupSummary

COLUMNS = ("ID", "TAKEN", "SIZE", "OWN", "VERIFIED", "TAGS")


@options.command("list", short_help="List the backups, newest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@options.pass_session
def command(session: Session, limit: int | None) -> None:
    """List the backups, newest first.

    SIZE is what a backup restores to; OWN what it added to the
    repository when it was taken.
    """
    found = open_repository(session.repository_config, session.clock).backups()
    shown = found[:limit]
    document = {"backups": [_entry(backup) for backup in shown], "total": len(found)}
    emit(session, document, lambda screen: _render(screen, shown, len(found)))


def _entry(backup: BackupSummary) -> dict[str, object]:
    """One backup as scripts read it (contract: `list`)."""
    entry: dict[str, object] = {
        "id": backup.id,
        "at": backup.at,
        "watermark_at": backup.watermark_at,
        "tags": backup.tags,
        "pinned": backup.pinned,
        "encrypted": backup.encrypted,
        "bytes_logical": backup.bytes_logical,
        "bytes_unique": backup.bytes_unique,
        "verified": _verified(backup),
    }
    if backup.locked_until:
        entry["locked_until"] = backup.locked_until
    return entry | {"unreadable": backup.unreadable} if backup.unreadable else entry


def _verified(backup: BackupSummary) -> dict[str, object] | None:
    check = backup.verified
    return {"level": check.level, "at": check.at, "ok": check.ok} if check else None


def _render(screen: Screen, backups: list[BackupSummary], total: int) -> None:
    if not backups:
        screen.line("no backups yet; take one: vbackup backup")
        return
    rows = [
        (
            backup.id + (" (pinned)" if backup.pinned else ""),
            screen.moment(backup.at),
            size(backup.bytes_logical),
            size(backup.bytes_unique),
            _verdict(backup),
            " ".join(f"{name}={value}" for name, value in sorted(backup.tags.items())),
        )
        for backup in backups
    ]
    styles = ["red" if backup.unreadable else "" for backup in backups]
    screen.table(COLUMNS, rows, right=("SIZE", "OWN"), styles=styles)
    held = [backup.locked_until for backup in backups if backup.locked_until]
    if held:
        last = format_time(max(held))
        screen.line(f"{len(held)} locked in the store (Object Lock), the last until {last}")
    if len(backups) < total:
        screen.line(f"{total - len(backups)} older ones not shown")


def _verdict(backup: BackupSummary) -> str:
    if backup.unreadable:
        return f"unreadable: {backup.unreadable}"
    if backup.verified is None:
        return "never"
    return f"{backup.verified.level} {'ok' if backup.verified.ok else 'FAILED'}"
