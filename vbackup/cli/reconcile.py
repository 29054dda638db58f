"""`vbackup reconcile`: compare rows and points, and repair on demand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbackup.cli import options
from vbackup.cli.compared import document, render, write_junit
from vbackup.cli.durations import Duration
from vbackup.cli.evidence import Evidence
from vbackup.cli.output import emit
from vbackup.cli.repairing import (
    REPAIRABLE,
    Repaired,
    asked_kinds,
    chosen_backup,
    repair,
    unrepaired,
)
from vbackup.cli.session import Session
from vbackup.errors import Findings, Refused, Usage
from vbackup.reconciling import live_pair, stored_pair
from vbackup.wiring import open_repository, work_directory

if TYPE_CHECKING:
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.model.finding import Finding

_FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say."""

    only: tuple[str, ...]
    tenant: str | None
    limit: int | None
    output: Path | None
    reembed: Path | None
    junit: Path | None
    backup: str | None
    repair: str | None
    from_backup: str | None
    yes: bool
    force: bool
    confirm: bool
    watch: bool
    interval: float
    complete_every: float
    rounds: int | None


@options.command("reconcile", short_help="Compare rows and points, and repair on demand.")
@click.option(
    "--link",
    "only",
    envvar="VBACKUP_RECONCILE_LINK",
    multiple=True,
    metavar="NAME",
    help="Only this link.",
)
@click.option("--tenant", metavar="VALUE", help="Only rows and points of this tenant.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="At most N findings in --output."
)
@click.option("--output", type=_FILE, metavar="FILE", help="Findings with evidence, JSON lines.")
@click.option("--reembed", type=_FILE, metavar="FILE", help="Rows to embed again, JSON lines.")
@click.option("--junit", type=_FILE, metavar="FILE", help="A JUnit file for CI systems.")
@click.option("--backup", metavar="ID", help="The pair of a backup instead; needs no server.")
@click.option(
    "--repair",
    metavar="KINDS",
    help="Repair these: orphans, not_live, duplicates, missing, stale, ahead, or all.",
)
@click.option(
    "--from-backup", metavar="ID", help="With --repair: bring vectors back from this backup."
)
@click.option("--yes", is_flag=True, help="Do not ask before points are deleted.")
@click.option("--force", is_flag=True, help="Repair beyond the runaway guard.")
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Look again after max_index_lag, so that lag is not taken for drift.",
)
@click.option("--watch", is_flag=True, help="Look again and again; only at what is in doubt.")
@click.option(
    "--interval",
    type=Duration(),
    metavar="TIME",
    default="1m",
    show_default=True,
    help="With --watch: the pause between two rounds.",
)
@click.option(
    "--complete-every",
    type=Duration(),
    metavar="TIME",
    default="1h",
    show_default=True,
    help="With --watch: how often everything is compared.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --watch: end after N rounds.",
)
@options.pass_session
def command(session: Session, /, **given: Any) -> None:
    """Compare the live pair, link by link, under one database snapshot.

    With --backup the pair of a stored backup is compared, as a restore would leave it. With
    --repair points that must go are deleted, each looked at again right before and written to a
    file first; rows whose points must come go to the --reembed file, but for those whose version
    --from-backup still has: their points are written back. Rows are never touched.
    With --watch the live pair is looked at until somebody stops it; JSON lines in a pipe.
    Exit code 3 when rows and points do not agree and were not repaired.
    """
    asked = Asked(**given)
    if asked.watch:
        from vbackup.cli.watching import watch

        watch(session, asked)
        return
    if asked.rounds:
        raise Usage("--rounds goes with --watch", hint="vbackup reconcile --watch --rounds N")
    if asked.repair and asked.backup:
        raise Usage("--repair is for the live pair, --backup is not")
    if asked.from_backup and not asked.repair:
        raise Usage(
            "--from-backup says where --repair takes vectors from",
            hint="vbackup reconcile --repair missing,stale,ahead --from-backup latest",
        )
    if asked.repair and session.config.qdrant is None:
        raise Refused(
            "--repair deletes points of Qdrant; vectors in the database are the application's rows",
            hint="vbackup reconcile --output FILE --reembed FILE says what to do",
        )
    if asked.repair:
        _repair(session, asked)
        return
    with Evidence(asked.output, asked.reembed, asked.limit) as evidence:
        result = _compare(session, asked, evidence.take)
    error = None
    if not result.clean:
        error = Findings(
            f"rows and points do not agree: {_total(result):,} findings",
            hint="vbackup reconcile --output FILE writes each with its evidence",
        )
    _report(session, asked, result, evidence, error=error)


def _compare(session: Session, asked: Asked, sink: Callable[[Finding], None]) -> ReconcileResult:
    from vbackup.engine.reconcile import ReconcileOptions

    if asked.backup:
        # Nobody writes to a backup: there is no lag to wait for.
        offline = ReconcileOptions(confirm=False, tenant=asked.tenant, only=asked.only)
        repository = open_repository(session.repository_config, session.clock)
        backup_id = repository.resolve(asked.backup)
        with session.reading(repository, backup_id):
            pair = stored_pair(repository, session.reporter, session.clock)
            return pair.reconcile(backup_id, offline, sink)
    watermark = session.config.watermark
    wanted = ReconcileOptions(
        confirm=asked.confirm,
        max_index_lag=watermark.max_index_lag,
        tenant=asked.tenant,
        only=asked.only,
        work_dir=work_directory(session.config),
    )
    with live_pair(session.config, session.reporter, session.clock, wanted) as live:
        return live.run(sink)


def _repair(session: Session, asked: Asked) -> None:
    from vbackup.engine.confirm import FindingFile

    kinds = asked_kinds(asked.repair or "")
    stored = chosen_backup(session, asked.from_backup) if asked.from_backup else None
    with (
        session.reading(stored.repository, stored.manifest.id) if stored else nullcontext(),
        tempfile.TemporaryDirectory(prefix="vbackup-repair-") as scratch,
        closing(FindingFile(Path(scratch))) as findings,
        # The rows to embed again are those that the repair finds, not those of the comparison.
        Evidence(asked.output, None, asked.limit) as evidence,
    ):

        def sink(finding: Finding) -> None:
            evidence.take(finding)
            findings.add(finding)

        result = _compare(session, asked, sink)
        done = repair(session, asked, kinds, result, findings, Path(scratch), stored)
    left = unrepaired(result, kinds)
    error = None
    if left:
        more = ",".join(kind for kind in left if kind in REPAIRABLE)
        error = Findings(
            f"found and not repaired: {', '.join(left)}",
            hint=f"vbackup reconcile --repair {more}" if more else "correct the application",
        )
    _report(session, asked, result, evidence, done, error=error)


def _report(
    session: Session,
    asked: Asked,
    result: ReconcileResult,
    evidence: Evidence,
    repaired: Repaired | None = None,
    *,
    error: Findings | None = None,
) -> None:
    if asked.junit:
        write_junit(asked.junit, result.reports)
    found = document(result, evidence) | {
        "backup": asked.backup,
        "output": asked.output,
        "reembed": asked.reembed,
    }
    if repaired:
        found["repaired"] = repaired.document()
    emit(
        session,
        found,
        lambda screen: render(screen, result, evidence, repaired),
        error=error,
    )


def _total(result: ReconcileResult) -> int:
    return sum(report.drift for report in result.reports)
