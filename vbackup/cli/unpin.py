"""`vbackup unpin`: leave a backup to the retention policy again."""

from __future__ import annotations

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.wiring import open_repository


@options.command("unpin", short_help="Leave a backup to the policy again.")
@click.argument("backup", metavar="ID")
@options.pass_session
def command(session: Session, backup: str) -> None:
    """Leave a backup to the policy again. ID may be `latest` or the start of an id."""
    repository = open_repository(session.repository_config, session.clock)
    backup_id = repository.resolve(backup)
    repository.unpin(backup_id)
    emit(
        session,
        {"id": backup_id, "pinned": False},
        lambda screen: screen.line(f"{backup_id} is not pinned: the policy decides"),
    )
