"""`vbackup verify`: prove that a backup can be restored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.durations import Duration
from vbackup.cli.junit import Case, write
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.cli.verification import Verification, VerifiedCheck
from vbackup.errors import Findings, Refused, VbackupError
from vbackup.quantity import duration
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.engine.drill import Drill
    from vbackup.repository.repository import Repository

LEVELS = ("manifest", "chunks", "offline", "drill")


_WORDS = {"passed": "ok", "failed": "FAILED", "not provable here": "not provable here"}
_STYLES = {"passed": "green", "failed": "red", "not provable here": "yellow"}


@options.command("verify", short_help="Prove that a backup can be restored.")
@click.argument("backup", metavar="[ID|latest]", default="latest")
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="chunks",
    show_default=True,
    help="manifest: all is there; chunks: every byte is read back; offline: rows and points "
    "agree; drill: it is restored into throwaway servers.",
)
@click.option(
    "--sample", metavar="SHARE", help="Of the chunks: 5%, 1/7 or 10GiB; samples take turns."
)
@click.option(
    "--max-age",
    type=Duration(),
    metavar="AGE",
    help="Fail when the newest good backup (or passed drill) is older, such as 26h.",
)
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
    """Prove that a backup can be restored. Exit code 3 when it cannot, 4 when this machine lacks
    what a drill needs, which says nothing about the backup.

    What was found is stored beside the backup, and `vbackup list` shows it.
    """
    repository = open_repository(session.repository_config, session.clock)
    drill = _drill(session, repository) if level == "drill" else None
    verification = Verification(repository, session.reporter, session.clock, drill)
    if repair_index:
        verification.repair_index()
    backup_id = repository.resolve(backup)
    with session.reading(repository, backup_id):
        verification.run(backup_id, level, sample)
    if max_age is not None:
        verification.age(max_age)
    if junit:
        write(junit, "vbackup verify", [_case(check) for check in verification.checks])
    emit(
        session,
        verification.document(),
        lambda screen: _render(screen, verification),
        error=_judgement(verification),
    )


def _drill(session: Session, repository: Repository) -> Drill:
    from vbackup import bare, drilling
    from vbackup.config import DrillConfig
    from vbackup.settings import load_drill

    if session.repository and bare.no_file(session.config_path):
        config = DrillConfig()
    else:
        config = load_drill(session.config_path).drill
    return drilling.drill(config, repository, session.reporter, session.clock)


def _judgement(verification: Verification) -> VbackupError | None:
    """Findings for what is wrong with the backup, Refused for what is wrong here."""
    for check in verification.failed:
        return Findings(
            f"backup {verification.id}: {check.name}: {check.detail}",
            hint="vbackup list shows other backups; take a new one: vbackup backup",
        )
    for check in verification.checks:
        if not check.ok:
            return Refused(
                f"backup {verification.id} could not be proven here: {check.name}: {check.detail}",
                hint=check.hint,
            )
    return None


def _case(check: VerifiedCheck) -> Case:
    said = "\n".join(filter(None, [check.detail or check.state, check.hint]))
    if check.state == "failed":
        return Case(check.name, check.seconds, failure=said)
    if not check.ok:
        return Case(check.name, check.seconds, error=f"not provable here: {said}")
    skipped = check.state != "passed"
    return Case(check.name, check.seconds, skipped=f"{check.state}: {said}" if skipped else "")


def _render(screen: Screen, verification: Verification) -> None:
    screen.title(f"backup {verification.id}, level {verification.level}")
    screen.table(
        ("CHECK", "", "DETAIL", "TOOK"),
        [
            (check.name, _WORDS[check.state], check.detail, duration(check.seconds))
            for check in verification.checks
        ],
        right=("TOOK",),
        styles=[_STYLES[check.state] for check in verification.checks],
    )
    drilled = verification.drilled
    if drilled and drilled.restored:
        screen.line(f"restored in {duration(drilled.restored.rto_seconds)}; nothing of it is left")
    for damage in verification.damage:
        screen.line(f"damaged: {damage}", "red")
