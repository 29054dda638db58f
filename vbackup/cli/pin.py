"""`vbackup pin`: keep a backup whatever the retention policy says."""

from __future__ import annotations

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.wiring import open_repository


@options.command("pin", short_help="Keep a backup whatever the policy says.")
@click.argument("backup", metavar="ID")
@options.pass_session
def command(session: Session, backup: str) -> None:
    """Keep a backup whatever the policy says. ID may be `latest` or the start of an id."""
    repository = open_repository(session.repository_config, session.clock)
    backup_id = repository.resolve(backup)
    repository.pin(backup_id)
    emit(
        session,
        {"id": backup_id, "pinned": True},
        lambda screen: screen.line(f"{backup_id} is pinned: prune keeps it"),
    )
