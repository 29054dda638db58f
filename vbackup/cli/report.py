"""`vbackup report`: the status page as a file."""

from __future__ import annotations

from pathlib import Path

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.schedule import current_page, current_status
from vbackup.cli.session import Session
from vbackup.errors import Failed


@options.command("report", short_help="Write the status page to a file.")
@click.option(
    "--html",
    "path",
    envvar="VBACKUP_REPORT_HTML",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the page.",
)
@options.pass_session
def command(session: Session, path: Path) -> None:
    """Write the status page to a file: self-contained, to mail or to keep."""
    from vbackup.operate.history import History

    history = History(session.state_directory / "history.sqlite")
    found = current_status(session, history, session.config)
    try:
        path.write_text(current_page(session, history, session.config), encoding="utf-8")
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from error
    emit(
        session,
        {"path": str(path), "protected": found.protected, "problems": found.problems},
        lambda screen: screen.line(f"wrote {path}"),
    )
