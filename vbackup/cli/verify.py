"""`vbackup verify`: prove that a backup can be restored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbackup.cli import options
from vbackup.cli.junit import Case, write
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.cli.verification import Verification, VerifiedCheck
from vbackup.config import parse_duration
from vbackup.errors import Findings
from vbackup.quantity import duration
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen

LEVELS = ("manifest", "chunks", "offline")


class Age(click.ParamType[float]):
    """A duration on the command line, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@options.command("verify", short_help="Prove that a backup can be restored.")
@click.argument("backup", metavar="[ID|latest]", default="latest")
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="chunks",
    show_default=True,
    help="manifest: all is there; chunks: every byte is read back; offline: rows and points agree.",
)
@click.option(
    "--sample", metavar="SHARE", help="Of the chunks: 5%, 1/7 or 10GiB; samples take turns."
)
@click.option("--max-age", type=Age(), metavar="AGE", help="Fail when it is older, such as 26h.")
@click.option("--repair-index", is_flag=True, help="First rebuild the index from the packs.")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A JUnit file for CI systems.",
)
@options.pass_session
def command(
    session: Session,
    backup: str,
    level: str,
    sample: str | None,
    max_age: float | None,
    repair_index: bool,
    junit: Path | None,
) -> None:
    """Prove that a backup can be restored. Exit code 3 when it cannot.

    What was found is stored beside the backup, and `vbackup list` shows it.
    """
    repository = open_repository(session.repository_config, session.clock)
    verification = Verification(repository, session.reporter, session.clock)
    if repair_index:
        verification.repair_index()
    verification.run(repository.resolve(backup), level, sample)
    if max_age is not None:
        verification.age(max_age)
    if junit:
        write(junit, "vbackup verify", [_case(check) for check in verification.checks])
    emit(
        session,
        verification.document(),
        lambda screen: _render(screen, verification),
        ok=verification.ok,
    )
    if not verification.ok:
        failed = next(check for check in verification.checks if not check.ok)
        raise Findings(
            f"backup {verification.id}: {failed.name}: {failed.detail}",
            hint="vbackup list shows other backups; take a new one: vbackup backup",
        )


def _case(check: VerifiedCheck) -> Case:
    return Case(check.name, check.seconds, "" if check.ok else check.detail or "failed")


def _render(screen: Screen, verification: Verification) -> None:
    screen.title(f"backup {verification.id}, level {verification.level}")
    screen.table(
        ("CHECK", "", "DETAIL", "TOOK"),
        [
            (check.name, "ok" if check.ok else "FAILED", check.detail, duration(check.seconds))
            for check in verification.checks
        ],
        right=("TOOK",),
        styles=["green" if check.ok else "red" for check in verification.checks],
    )
    for damage in verification.damage:
        screen.line(f"damaged: {damage}", "red")
