"""What `restore` prints: the plan before, the result after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.documents import reconcile_document
from vbackup.cli.links import render_links
from vbackup.errors import Findings
from vbackup.quantity import duration, size

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.engine.inplace import InPlaceResult
    from vbackup.engine.proof import RestoreResult
    from vbackup.engine.restoreplan import PlanStep, RestorePlan
    from vbackup.engine.switchstate import StateFile


@dataclass(frozen=True, slots=True)
class Done:
    """A restore that ended; `switch` when it took the live names, `beside` when it stands beside
    the live pair under names that vbackup chose."""

    result: RestoreResult
    switch: InPlaceResult | None = None
    beside: StateFile | None = None


def plan_document(plan: RestorePlan) -> dict[str, object]:
    return {
        "id": plan.manifest.id,
        "plan": True,
        "watermark_at": plan.manifest.watermark.at,
        "database": plan.database,
        "collections": plan.names,
        "in_place": plan.in_place,
        **steps_document(plan.steps),
    }


def steps_document(steps: Sequence[PlanStep]) -> dict[str, object]:
    """What a plan would do, and how much it would read."""
    return {
        "steps": [
            {"action": step.action, "target": step.target, "bytes": step.bytes} for step in steps
        ],
        "bytes": sum(step.bytes for step in steps),
    }


def render_plan(screen: Screen, plan: RestorePlan) -> None:
    screen.title(f"restore of {plan.manifest.id}")
    screen.line(f"as it was at {screen.moment(plan.manifest.watermark.at)}")
    total = render_steps(screen, plan.steps)
    screen.line(f"reads {size(total)}; nothing was changed yet")


def render_steps(screen: Screen, steps: Sequence[PlanStep]) -> int:
    """The table of a plan; how many bytes it would read."""
    screen.table(
        ("", "STEP", "TARGET", "SIZE"),
        [
            (number, step.action, step.target, size(step.bytes) if step.bytes else "")
            for number, step in enumerate(steps, 1)
        ],
        right=("", "SIZE"),
    )
    return sum(step.bytes for step in steps)


def restore_document(done: Done, reembed_file: Path | None) -> dict[str, object]:
    """The result as scripts read it (contract: `restore`)."""
    result, switch = done.result, done.switch
    document: dict[str, object] = {
        "id": result.plan.manifest.id,
        "plan": False,
        "database": result.plan.database,
        "collections": result.plan.names,
        "points": result.points,
        "aliases": result.aliases,
        "patch": {"deletes": result.applied.deletes, "upserts": result.applied.upserts},
        "reembed": {
            "count": len(result.applied.reembed),
            "reasons": _reasons(result),
            "file": reembed_file,
        },
        "reconcile": reconcile_document(result.reconcile) if result.reconcile else None,
        "rto_seconds": round(result.rto_seconds, 3),
        "cache": {"invalidated": result.invalidated, "restored": result.cached},
        "warnings": result.warnings,
    }
    if switch:
        document["switch"] = {
            "state": switch.file.path,
            "kept_database": switch.state.kept_database,
            "kept_collections": switch.state.collections,
            "go_back": switch.file.go_back,
            "drop_old": switch.file.drop_old,
        }
    if done.beside:
        document["beside"] = {"state": done.beside.path, "drop_old": done.beside.drop_old}
    return document


def render_result(screen: Screen, done: Done, reembed_file: Path | None) -> None:
    result, plan = done.result, done.result.plan
    verb = "now live" if done.switch else "restored"
    screen.title(f"backup {plan.manifest.id} is {verb}, in {duration(result.rto_seconds)}")
    screen.pairs([("database", plan.database), *_collections(result)])
    if result.reconcile:
        screen.line()
        render_links(screen, result.reconcile.reports)
    _render_reembed(screen, result, reembed_file)
    if result.invalidated:
        screen.line(f"cache: {result.invalidated:,} keys of the abandoned timeline invalidated")
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")
    if done.switch:
        screen.line()
        screen.line(f"to go back:          {done.switch.file.go_back}")
        screen.line(f"to drop the old one: {done.switch.file.drop_old}")
    if done.beside:
        screen.line()
        screen.line(f"to drop it again: {done.beside.drop_old}")


def _collections(result: RestoreResult) -> list[tuple[str, object]]:
    return [
        ("collection", f"{new} ({result.points.get(old, 0):,} points)")
        for old, new in result.plan.names.items()
    ]


def _render_reembed(screen: Screen, result: RestoreResult, file: Path | None) -> None:
    if not result.applied.reembed:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in _reasons(result).items())
    where = f"see {file}" if file else f"vbackup show {result.plan.manifest.id} --reembed FILE"
    screen.line(f"{len(result.applied.reembed):,} rows to re-embed ({reasons}): {where}", "yellow")


def left_to_embed(count: int) -> Findings:
    """What --strict makes of rows that are left."""
    return Findings(
        f"{count} rows are left to re-embed (--strict)",
        hint="vbackup restore --reembed FILE writes them down",
    )


def _reasons(result: RestoreResult) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in result.applied.reembed:
        counts[line.reason] = counts.get(line.reason, 0) + 1
    return counts
