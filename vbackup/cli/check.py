"""`vbackup check`: reach everything and say what to do; change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.durations import Duration
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import Refused

if TYPE_CHECKING:
    from vbackup.cli.preflight import Preflight
    from vbackup.cli.screen import Screen

STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


@options.command("check", short_help="Reach everything and say what to do; change nothing.")
@click.option(
    "--measure",
    type=Duration(),
    default="3s",
    show_default=True,
    metavar="DURATION",
    help="Watch rows and points for so long; 0 leaves it out.",
)
@options.pass_session
def command(session: Session, measure: float) -> None:
    """Reach PostgreSQL, Qdrant and the repository, and say what to do; change nothing.

    It also watches the application write: how late points follow their rows, whether they run
    ahead of them, and which strategy fits. Exit code 4 when a backup would be refused. With -v
    it also prints where each value of the configuration came from.
    """
    from vbackup.cli.preflight import Preflight

    preflight = Preflight(session.settings, session.clock, measure=measure)
    preflight.run()
    failed = next((check for check in preflight.checks if check.status == "failed"), None)
    error = None
    if failed:
        error = Refused(
            f"a backup would be refused: {failed.name}: {failed.found}",
            hint=failed.advice or "see the table",
        )
    emit(
        session,
        preflight.document(),
        lambda screen: render(screen, preflight, origins=session.verbosity > 0),
        error=error,
    )


def render(screen: Screen, preflight: Preflight, *, origins: bool = False) -> None:
    """What was tried, what was found, what to do."""
    screen.table(
        ("TRIED", "", "FOUND"),
        [(check.name, check.status, check.found) for check in preflight.checks],
        styles=[STYLES[check.status] for check in preflight.checks],
    )
    advice = [check for check in preflight.checks if check.advice]
    if advice:
        screen.line()
    said = {f"{check.name}: {check.advice}": STYLES[check.status] for check in advice}
    for text, style in said.items():
        screen.line(text, style)
    if origins:
        screen.line()
        screen.table(
            ("KEY", "VALUE", "FROM"),
            [(origin.key, origin.value, origin.source) for origin in preflight.settings.origins],
        )
