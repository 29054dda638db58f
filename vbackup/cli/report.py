"""`vbackup report`: the status page as a file."""

from __future__ import annotations

from pathlib import Path

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.session import Session


@options.command("report", short_help="Write the status page to a file.")
@click.option(
    "--html",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the page.",
)
@options.pass_session
def command(session: Session, path: Path) -> None:
    """Write the status page to a file: self-contained, to mail or to keep."""
    from vbackup.operate.history import History
    from vbackup.operate.page import render
    from vbackup.operate.status import read_status
    from vbackup.redact import safe_url

    config = session.config
    history = History(session.state_directory / "history.sqlite")
    status = read_status(history, config.schedule, config.objective, session.clock.now())
    path.write_text(render(status, title=safe_url(config.repository.url)))
    emit(
        session,
        {"path": str(path), "protected": status.protected, "problems": status.problems},
        lambda screen: screen.line(f"wrote {path}"),
    )
