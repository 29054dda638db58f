"""`vbackup reconcile`: compare rows and points, and repair on demand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup import wiring
from vbackup.cli import options
from vbackup.cli.documents import reconcile_document
from vbackup.cli.evidence import Evidence
from vbackup.cli.junit import Case, write
from vbackup.cli.links import KINDS, render_links
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import Findings

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.model.finding import LinkReport

_FILE = click.Path(dir_okay=False, path_type=Path)


@options.command("reconcile", short_help="Compare rows and points, and repair on demand.")
@click.option("--link", "only", multiple=True, metavar="NAME", help="Only this link.")
@click.option("--tenant", metavar="VALUE", help="Only rows and points of this tenant.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Write at most N findings.")
@click.option("--output", type=_FILE, metavar="FILE", help="Findings with evidence, JSON lines.")
@click.option("--reembed", type=_FILE, metavar="FILE", help="Rows to embed again, JSON lines.")
@click.option("--junit", type=_FILE, metavar="FILE", help="A JUnit file for CI systems.")
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
    confirm: bool,
) -> None:
    """Compare the live pair, link by link, under one database snapshot.

    Exit code 3 when rows and points do not agree.
    """
    from vbackup.engine.reconcile import ReconcileOptions

    asked = ReconcileOptions(
        confirm=confirm,
        max_index_lag=session.config.watermark.max_index_lag,
        tenant=tenant,
        limit=limit,
        only=only,
        work_dir=session.config.watermark.work_dir,
    )
    with ExitStack() as stack:
        evidence = stack.enter_context(Evidence(output, reembed))
        run = stack.enter_context(
            wiring.reconciler(session.config, session.reporter, session.clock, asked)
        )
        result = run.run(evidence.take)
    if junit:
        write(junit, "vbackup reconcile", [_case(report) for report in result.reports])
    document = reconcile_document(result) | {
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
                    "" if found.point is None else found.point,
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
