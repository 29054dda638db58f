"""`vbackup restore`: restore a pair, then reconcile it."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vbackup import restoring
from vbackup.cli import options
from vbackup.cli.extracting import extract
from vbackup.cli.jsonl import LineFile
from vbackup.cli.kept import state_directory
from vbackup.cli.output import emit
from vbackup.cli.reembed import reembed_line
from vbackup.cli.restored import (
    Done,
    left_to_embed,
    plan_document,
    render_plan,
    render_result,
    restore_document,
)
from vbackup.cli.session import Session
from vbackup.cli.switching import after_switch, command_again
from vbackup.clock import parse_time
from vbackup.errors import Findings, Usage

if TYPE_CHECKING:
    from vbackup.engine.restore import Restore
    from vbackup.engine.restoreplan import RestoreOptions, RestorePlan

_FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say."""

    backup: str
    at: datetime | None
    plan: bool
    database: str | None
    collection_suffix: str | None
    collections: tuple[str, ...]
    only: Literal["postgres", "qdrant"] | None
    postgres: str | None
    qdrant: str | None
    in_place: bool
    yes: bool
    force: bool
    strict: bool
    keep_failed: bool
    reembed: Path | None
    go_back: Path | None
    drop_old: Path | None
    tenant: str | None
    tenant_table: tuple[str, ...]


class Moment(click.ParamType[datetime]):
    """A time on the command line."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@options.command("restore", short_help="Restore a pair, then reconcile it.")
@click.argument("backup", metavar="[ID|latest]", default="latest")
@click.option(
    "--at",
    type=Moment(),
    metavar="TIME",
    help="The newest backup whose watermark is not after TIME (UTC unless it says).",
)
@click.option("--plan", is_flag=True, help="Only show every step, target and size.")
@click.option("--database", metavar="NAME", help="Name of the new database.")
@click.option("--collection-suffix", metavar="S", help="Appended to the collections' names.")
@click.option(
    "--collection",
    "collections",
    envvar="VBACKUP_RESTORE_COLLECTION",
    multiple=True,
    metavar="NAME",
    help="Only these collections.",
)
@click.option("--only", type=click.Choice(["postgres", "qdrant"]), help="Only one side.")
@click.option("--postgres", metavar="DSN", help="Restore into this server.")
@click.option("--qdrant", metavar="URL", help="Restore into this deployment.")
@click.option("--in-place", is_flag=True, help="Switch to the restored pair once it is proven.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Go on beyond the runaway guard and over drift.")
@click.option("--strict", is_flag=True, help="Exit 3 when rows are left to re-embed.")
@click.option("--keep-failed", is_flag=True, help="Leave what a failed restore created.")
@click.option("--reembed", type=_FILE, metavar="FILE", help="Write the rows to re-embed here.")
@click.option("--go-back", type=_FILE, metavar="STATE", help="Undo a switch, by its state file.")
@click.option(
    "--drop-old", type=_FILE, metavar="STATE",
    help="Drop what a switch kept, or what a restore made.",
)  # fmt: skip
@click.option("--tenant", metavar="VALUE", help="Only this tenant's rows and points.")
@click.option(
    "--tenant-table", multiple=True, metavar="TABLE=COLUMN",
    help="With --tenant: a table that no link names, and what tells its tenant.",
)  # fmt: skip
@options.pass_session
def command(session: Session, /, **given: Any) -> None:
    """Restore a pair, then reconcile it.

    By default the pair comes back under new names beside the live one, and nothing live is
    touched. With --in-place the restored pair is proven first, then takes the live names; the
    old pair is kept under other names until --drop-old. With --tenant only one tenant's rows and
    points come back, with what they need and what belongs to them: beside the live pair, or with
    --in-place into it.
    """
    asked = Asked(**given)
    if asked.tenant_table and asked.tenant is None:
        raise Usage("--tenant-table goes with --tenant")
    if asked.at and asked.backup != "latest":
        raise Usage(
            "--at chooses a backup by its time, and so does an ID",
            hint=f"leave out --at, or {asked.backup}",
        )
    if asked.go_back or asked.drop_old:
        after_switch(session, asked)
        return
    _restore(session, asked)


def _restore(session: Session, asked: Asked) -> None:
    with (
        restoring.restorer(
            session.config,
            session.reporter,
            session.clock,
            dsn=asked.postgres,
            url=asked.qdrant,
            only=asked.only,
        ) as restore,
        ExitStack() as reading,
    ):
        restore.state_directory = state_directory(session)
        wanted = _options(asked)
        backup_id = restore.repository.resolve(asked.backup, at=asked.at)
        reading.enter_context(session.reading(restore.repository, backup_id))
        if asked.tenant is not None:
            extract(session, asked, restore, backup_id, wanted)
            return
        plan = restore.plan(backup_id, wanted)
        if asked.plan:
            emit(session, plan_document(plan), lambda screen: render_plan(screen, plan))
            return
        if asked.in_place:
            database = [plan.manifest.postgres.facts.database] if plan.database else []
            names = ", ".join([*database, *plan.names])
            session.confirm(f"this replaces the live pair ({names})", given=asked.yes)
        with LineFile(asked.reembed) if asked.reembed else nullcontext() as file:
            done = _run(session, asked, restore, plan)
            if file:
                for line in done.result.applied.reembed:
                    file.write(reembed_line(line))
    _report(session, asked, done)


def _options(asked: Asked) -> RestoreOptions:
    from vbackup.engine.restoreplan import RestoreOptions

    return RestoreOptions(
        database=asked.database,
        collection_suffix=asked.collection_suffix,
        collections=asked.collections,
        only=asked.only,
        in_place=asked.in_place,
        force=asked.force,
        keep_failed=asked.keep_failed,
    )


def _run(session: Session, asked: Asked, restore: Restore, plan: RestorePlan) -> Done:
    from vbackup.engine.inplace import BesideRestore, InPlaceRestore

    wanted = _options(asked)
    directory, again = state_directory(session), command_again(session, asked)
    with restoring.switch(
        session.config, session.reporter, session.clock, dsn=asked.postgres, url=asked.qdrant
    ) as switch:
        if plan.in_place:
            live = plan.manifest.postgres.facts.database
            switched = InPlaceRestore(restore, switch, live, directory, again).run(plan, wanted)
            return Done(switched.restored, switched)
        beside = BesideRestore(restore, switch, directory, again)
        file = beside.begin(plan)
        result = beside.run(plan, wanted, file)
        if asked.database is None and asked.collection_suffix is None:
            return Done(result, beside=file)
        # Names that somebody chose are going to be used.
        file.remove()
        return Done(result)


def _report(session: Session, asked: Asked, done: Done) -> None:
    """Print the result; drift is a finding, and with --strict so are rows to re-embed."""
    left = len(done.result.applied.reembed) if asked.strict else 0
    error = left_to_embed(left) if left else None
    if not done.result.clean:
        error = Findings(
            "rows and points of the restored pair do not agree", hint=_look_at(done.result.plan)
        )
    document = restore_document(done, asked.reembed)
    emit(session, document, lambda screen: render_result(screen, done, asked.reembed), error=error)


def _look_at(plan: RestorePlan) -> str:
    names = [plan.database] if plan.database else []
    return f"look at {', '.join([*names, *plan.names.values()])}"
