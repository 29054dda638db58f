"""`vbackup restore --tenant`: only one tenant's rows and points, under new names."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.documents import reconcile_document
from vbackup.cli.jsonl import LineFile
from vbackup.cli.links import render_links
from vbackup.cli.output import emit
from vbackup.cli.reembed import reembed_line
from vbackup.cli.restored import left_to_embed, render_steps, steps_document
from vbackup.errors import Findings, Refused, Usage
from vbackup.quantity import duration, size

if TYPE_CHECKING:
    from vbackup.cli.merging import Merged
    from vbackup.cli.restore import Asked
    from vbackup.cli.screen import Screen
    from vbackup.cli.session import Session
    from vbackup.engine.extraction import Extraction, ExtractionResult
    from vbackup.engine.extractionplan import ExtractionPlan
    from vbackup.engine.restore import Restore
    from vbackup.engine.restoreplan import RestoreOptions
    from vbackup.model.tenancy import TenantTable


def extract(
    session: Session, asked: Asked, restore: Restore, backup_id: str, wanted: RestoreOptions
) -> None:
    """Plan or extract one tenant, and print what came out.

    Raises Findings when its rows and points do not agree, NotFound when it has no rows."""
    from vbackup.cli.merging import check
    from vbackup.engine.extraction import Extraction

    if asked.in_place:
        check(asked)
    extraction, tenant = Extraction(restore), asked.tenant or ""
    wanted = replace(wanted, in_place=False)
    named = named_tables(asked.tenant_table)
    plan = extraction.plan(backup_id, wanted, tenant, named, renumber=asked.in_place)
    if asked.plan:
        emit(session, plan_document(plan), lambda screen: _render_plan(screen, plan))
        return
    if asked.in_place:
        _bring_back(session, asked, extraction, plan, wanted)
        return
    with LineFile(asked.reembed) if asked.reembed else nullcontext() as file:
        result = extraction.run(plan, wanted)
        if file:
            for line in result.reembed:
                file.write(reembed_line(line))
    _report(session, asked, result)


def _bring_back(
    session: Session,
    asked: Asked,
    extraction: Extraction,
    plan: ExtractionPlan,
    wanted: RestoreOptions,
) -> None:
    """Extract, then merge into the live pair. Raises what both raise."""
    from vbackup.cli import merging

    session.confirm(
        f"this writes the rows and points of tenant {plan.tenant} into the live pair",
        given=asked.yes,
    )
    result = extraction.run(plan, wanted)
    if not result.clean and not asked.force:
        extraction.drop(plan)
        raise Refused(
            "rows and points of the extracted tenant do not agree: nothing was brought back",
            hint="restore without --in-place and look, or go on with --force",
        )
    merged = merging.merge(session, asked, extraction, result)
    document = result_document(result, merged.reembed_file) | {"in_place": merged.document()}
    error = None
    if not merged.clean:
        error = Findings(
            "rows and points of the tenant do not agree in the live pair",
            hint=f"vbackup reconcile --tenant {plan.tenant} --output FILE",
        )
    emit(session, document, lambda screen: _render_merged(screen, result, merged), error=error)


def _render_merged(screen: Screen, result: ExtractionResult, merged: Merged) -> None:
    plan = result.plan
    screen.title(f"tenant {plan.tenant} of backup {plan.manifest.id} is back in the live pair")
    screen.table(
        ("TABLE", "INSERTED", "UPDATED"),
        [(t.table, f"{t.inserted:,}", f"{t.updated:,}") for t in merged.tables],
        right=("INSERTED", "UPDATED"),
    )
    for table in merged.tables:
        if table.altered:
            screen.line(
                f"warning: a trigger changed {table.altered:,} rows of {table.table}", "yellow"
            )
    points = merged.points
    screen.pairs(
        [
            ("rows brought back with their points", f"{points.revived:,}" if points else None),
            ("rows to embed again", f"{points.reembed:,}" if points else None),
            ("see", merged.reembed_file),
            ("what was overwritten or inserted", merged.rows_file),
            ("points that were overwritten", points.removed_file if points else None),
        ]
    )
    if merged.reconcile:
        screen.line()
        render_links(screen, merged.reconcile.reports)
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")


def named_tables(given: tuple[str, ...]) -> list[TenantTable]:
    """`public.orders=customer_id`, several times. Raises Usage."""
    from vbackup.model.tenancy import TenantTable

    tables = []
    for text in given:
        table, equals, tenant = text.partition("=")
        if not (table.strip() and equals and tenant.strip()):
            raise Usage(
                f"--tenant-table {text!r} names no table and column",
                hint="write TABLE=COLUMN, or TABLE=EXPRESSION over its columns",
            )
        tables.append(TenantTable(table.strip(), tenant.strip()))
    return tables


def plan_document(plan: ExtractionPlan) -> dict[str, object]:
    return {
        "id": plan.manifest.id,
        "plan": True,
        "watermark_at": plan.manifest.watermark.at,
        "tenant": plan.tenant,
        "tenant_tables": [{"table": t.table, "tenant": t.tenant} for t in plan.tables],
        "database": plan.database,
        "collections": plan.names,
        "in_place": False,
        **steps_document(plan.steps),
        "warnings": plan.warnings,
    }


def _render_plan(screen: Screen, plan: ExtractionPlan) -> None:
    screen.title(f"tenant {plan.tenant} out of {plan.manifest.id}")
    screen.line(f"as it was at {screen.moment(plan.manifest.watermark.at)}")
    total = render_steps(screen, plan.steps)
    for warning in plan.warnings:
        screen.line(f"warning: {warning}", "yellow")
    screen.line(f"reads {size(total)}, and needs room for all of it; nothing was changed yet")


def result_document(result: ExtractionResult, reembed_file: Path | None) -> dict[str, object]:
    """As `restore` without --tenant, with what was kept by table."""
    plan = result.plan
    return {
        "id": plan.manifest.id,
        "plan": False,
        "tenant": plan.tenant,
        "database": plan.database,
        "collections": plan.names,
        "tables": [
            {
                "table": table.table,
                "rows": table.rows,
                "own": table.own,
                "belonging": table.belonging,
                "referenced": table.referenced,
            }
            for table in result.kept
        ],
        "points": result.points,
        "reembed": {"count": len(result.reembed), "file": reembed_file},
        "reconcile": reconcile_document(result.reconcile) if result.reconcile else None,
        "rto_seconds": round(result.rto_seconds, 3),
        "warnings": result.warnings,
    }


def _render(screen: Screen, result: ExtractionResult, reembed_file: Path | None) -> None:
    plan = result.plan
    took = duration(result.rto_seconds)
    screen.title(f"tenant {plan.tenant} out of backup {plan.manifest.id}, in {took}")
    collections = [
        ("collection", f"{new} ({result.points.get(old, 0):,} points)")
        for old, new in plan.names.items()
    ]
    screen.pairs([("database", plan.database), *collections])
    screen.line()
    screen.table(
        ("TABLE", "ROWS", "OWN", "BELONGING", "REFERENCED"),
        [
            (t.table, f"{t.rows:,}", f"{t.own:,}", f"{t.belonging:,}", f"{t.referenced:,}")
            for t in result.kept
        ],
        right=("ROWS", "OWN", "BELONGING", "REFERENCED"),
    )
    if result.reconcile:
        screen.line()
        render_links(screen, result.reconcile.reports)
    if result.reembed:
        where = f"see {reembed_file}" if reembed_file else "--reembed FILE writes them down"
        screen.line(f"{len(result.reembed):,} rows to re-embed: {where}", "yellow")
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")


def _report(session: Session, asked: Asked, result: ExtractionResult) -> None:
    left = len(result.reembed) if asked.strict else 0
    error = left_to_embed(left) if left else None
    if not result.clean:
        error = Findings(
            "rows and points of the extracted tenant do not agree",
            hint=f"look at {', '.join([result.plan.database, *result.plan.names.values()])}",
        )
    emit(
        session,
        result_document(result, asked.reembed),
        lambda screen: _render(screen, result, asked.reembed),
        error=error,
    )
