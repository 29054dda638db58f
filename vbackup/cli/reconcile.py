"""`vbackup reconcile`: compare rows and points, and repair on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.documents import reconcile_document
from vbackup.cli.evidence import Evidence
from vbackup.cli.junit import Case, write
from vbackup.cli.links import KINDS, render_links
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import Findings
from vbackup.reconciling import live_pair, stored_pair
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.engine.reconcile import ReconcileOptions, ReconcileResult
    from vbackup.model.finding import LinkReport

_FILE = click.Path(dir_okay=False, path_type=Path)


@options.command("reconcile", short_help="Compare rows and points, and repair on demand.")
@click.option("--link", "only", multiple=True, metavar="NAME", help="Only this link.")
@click.option("--tenant", metavar="VALUE", help="Only rows and points of this tenant.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Write at most N findings.")
@click.option("--output", type=_FILE, metavar="FILE", help="Findings with evidence, JSON lines.")
@click.option("--reembed", type=_FILE, metavar="FILE", help="Rows to embed again, JSON lines.")
@click.option("--junit", type=_FILE, metavar="FILE", help="A JUnit file for CI systems.")
@click.option("--backup", metavar="ID", help="The pair of a backup instead; needs no server.")
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Look again after max_index_lag, so that lag is not taken for drift.",
)
@options.pass_session
def command(
    session: Session,
    only: tuple[str, ...],
    tenant: str | None,
    limit: int | None,
    output: Path | None,
    reembed: Path | None,
    junit: Path | None,
    backup: str | None,
    confirm: bool,
) -> None:
    """Compare the live pair, link by link, under one database snapshot.

    With --backup the pair of a stored backup is compared, as a restore would leave it. Exit code
    3 when rows and points do not agree.
    """
    from vbackup.engine.reconcile import ReconcileOptions

    asked = ReconcileOptions(confirm=confirm, tenant=tenant, limit=limit, only=only)
    with Evidence(output, reembed) as evidence:
        if backup:
            result = _stored(session, backup, asked, evidence)
        else:
            result = _live(session, asked, evidence)
    if junit:
        write(junit, "vbackup reconcile", [_case(report) for report in result.reports])
    document = reconcile_document(result) | {
        "backup": backup,
        "findings_written": evidence.written,
        "truncated": result.truncated,
        "output": output,
        "reembed": reembed,
    }
    emit(session, document, lambda screen: _render(screen, result, evidence), ok=result.clean)
    if not result.clean:
        total = sum(report.drift for report in result.reports)
        raise Findings(
            f"rows and points do not agree: {total:,} findings",
            hint="vbackup reconcile --output FILE writes each with its evidence",
        )


def _live(session: Session, asked: ReconcileOptions, evidence: Evidence) -> ReconcileResult:
    watermark = session.config.watermark
    options = replace(asked, max_index_lag=watermark.max_index_lag, work_dir=watermark.work_dir)
    with live_pair(session.config, session.reporter, session.clock, options) as pair:
        return pair.run(evidence.take)


def _stored(
    session: Session, backup: str, asked: ReconcileOptions, evidence: Evidence
) -> ReconcileResult:
    repository = open_repository(session.repository_config, session.clock)
    pair = stored_pair(repository, session.reporter, session.clock)
    # Nobody writes to a backup: there is no lag to wait for.
    return pair.reconcile(repository.resolve(backup), replace(asked, confirm=False), evidence.take)


def _render(screen: Screen, result: ReconcileResult, evidence: Evidence) -> None:
    render_links(screen, result.reports)
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")
    if evidence.examples:
        screen.line()
        screen.table(
            ("FINDING", "LINK", "KEY", "POINT", "ROW VERSION", "POINT VERSION"),
            [
                (
                    found.kind,
                    found.link,
                    found.key or "",
                    "" if found.point is None or found.point == found.key else found.point,
                    found.row_version or "",
                    found.point_version or "",
                )
                for found in evidence.examples
            ],
        )
        if evidence.seen > len(evidence.examples):
            screen.line(f"and {evidence.seen - len(evidence.examples):,} more")


def _case(report: LinkReport) -> Case:
    if report.clean:
        return Case(report.name)
    found = [
        f"{getattr(report, field):,} {title}" for field, title in KINDS if getattr(report, field)
    ]
    return Case(report.name, failure=", ".join(found))
