"""`vbackup backup`: store one consistent pair in the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vbackup import wiring
from vbackup.cli import options
from vbackup.cli.documents import backup_document, link_document
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.errors import Refused, Usage
from vbackup.quantity import duration, size

if TYPE_CHECKING:
    from vbackup.cli.preflight import Preflight
    from vbackup.engine.backup import BackupResult
    from vbackup.model.manifest import Strategy

STRATEGIES = ("capture", "fence", "lock")


@options.command("backup", short_help="Store one consistent pair in the repository.")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    help="How to find the watermark; default watermark.strategy.",
)
@click.option(
    "--tag",
    "tags",
    envvar="VBACKUP_BACKUP_TAG",
    multiple=True,
    metavar="K=V",
    help="Say what it is; may be given repeatedly.",
)
@click.option("--dry-run", is_flag=True, help="Only check, and say what would be stored.")
@options.pass_session
def command(
    session: Session, strategy: Strategy | None, tags: tuple[str, ...], dry_run: bool
) -> None:
    """Store one consistent pair in the repository.

    With the strategy `capture` no writer ever waits. A backup that fails or is stopped leaves
    nothing that could be taken for one; the next one reuses what it uploaded.
    """
    labels = _labels(tags)
    if dry_run:
        _dry_run(session)
        return
    result = wiring.backup(
        session.config, session.reporter, session.clock, strategy=strategy, tags=labels
    )
    emit(session, _document(result), lambda screen: _render(screen, result))


def _labels(tags: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for tag in tags:
        name, sign, value = tag.partition("=")
        if not sign or not name:
            raise Usage(f"not a tag: {tag!r}", hint="write --tag name=value")
        labels[name] = value
    return labels


def _document(result: BackupResult) -> dict[str, object]:
    return backup_document(result.manifest) | {
        "dry_run": False,
        "tags": result.manifest.tags,
        "links": [link_document(report) for report in result.reports],
        "warnings": list(result.warnings),
    }


def _render(screen: Screen, result: BackupResult) -> None:
    manifest, patch = result.manifest, result.manifest.patch
    mark, numbers = manifest.watermark, manifest.statistics
    points = sum(c.points for c in manifest.qdrant.collections) if manifest.qdrant else 0
    screen.title(f"backup {manifest.id}")
    screen.pairs(
        [
            ("watermark", f"{mark.lsn} at {screen.moment(mark.at)}"),
            ("strategy", f"{mark.strategy} ({mark.exactness})"),
            ("writers paused", f"{mark.writers_paused_ms} ms"),
            ("postgres", f"{manifest.postgres.facts.database}, {size(manifest.postgres.bytes)}"),
            ("qdrant", f"{points:,} points" if manifest.qdrant else None),
            ("patch", f"{patch.upserts:,} upserts, {patch.deletes:,} deletes"),
            ("to re-embed", f"{patch.reembed:,}"),
            ("read", size(numbers.bytes_read)),
            (
                "uploaded",
                f"{size(numbers.bytes_uploaded)} ({numbers.chunks_reused:,} chunks reused)",
            ),
            ("took", duration(numbers.seconds)),
        ]
    )
    for warning in result.warnings:
        screen.line(f"warning: {warning}", "yellow")


def _dry_run(session: Session) -> None:
    """Everything that a backup would ask first. Raises Refused when it would be refused."""
    from vbackup.cli.preflight import Preflight

    preflight = Preflight(session.settings, session.clock)
    preflight.run()
    document = {"dry_run": True, **preflight.document(), "would_store": preflight.inventory()}
    error = None
    if not preflight.ok:
        error = Refused(
            f"a backup would be refused: {preflight.failures} check(s) failed", hint="vbackup check"
        )
    emit(session, document, lambda screen: _render_dry(screen, preflight), error=error)


def _render_dry(screen: Screen, preflight: Preflight) -> None:
    from vbackup.cli.check import render

    render(screen, preflight)
    screen.line()
    screen.line("nothing was stored; a backup would hold:")
    rows = preflight.inventory()
    screen.table(
        ("WHAT", "NAME", "SIZE"), [(r["kind"], r["name"], r["size"]) for r in rows], right=("SIZE",)
    )
