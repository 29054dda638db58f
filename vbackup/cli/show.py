"""`vbackup show`: one backup in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.documents import backup_document
from vbackup.cli.output import emit
from vbackup.cli.reembed import reembed_lines, write_reembed
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.clock import format_time
from vbackup.quantity import duration, size
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from datetime import datetime

    from vbackup.model.manifest import BackupSummary, Manifest


@options.command("show", short_help="Show one backup in full.")
@click.argument("backup", metavar="ID", default="latest")
@click.option(
    "--reembed",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the rows that a restore leaves to re-embed here, as JSON lines.",
)
@options.pass_session
def command(session: Session, backup: str, reembed: Path | None) -> None:
    """Show one backup in full. ID may be `latest` or the start of an id."""
    repository = open_repository(session.repository_config, session.clock)
    manifest = repository.load(repository.resolve(backup))
    summary = next((s for s in repository.backups() if s.id == manifest.id), None)
    if reembed:
        with session.reading(repository, manifest.id):
            write_reembed(reembed, reembed_lines(repository, manifest))
    document = _document(manifest, summary)
    emit(session, document, lambda screen: _render(screen, manifest, summary))


def _document(manifest: Manifest, summary: BackupSummary | None) -> dict[str, object]:
    document = backup_document(manifest) | {
        "created_at": manifest.created_at,
        "host": manifest.host,
        "vbackup_version": manifest.vbackup_version,
        "tags": manifest.tags,
        "links": [link.name for link in manifest.links],
        "artifacts": [
            {"name": a.name, "bytes": a.length, "blake3": a.blake3, "sha256": a.sha256 or None}
            for a in manifest.artifacts()
        ],
    }
    if summary:
        document |= {
            "pinned": summary.pinned,
            "locked_until": summary.locked_until,
            "encrypted": summary.encrypted,
            "bytes_logical": summary.bytes_logical,
            "bytes_unique": summary.bytes_unique,
            "verified": summary.verified,
        }
    return document


def _render(screen: Screen, manifest: Manifest, summary: BackupSummary | None) -> None:
    screen.title(f"backup {manifest.id}")
    screen.pairs(_facts(screen, manifest, summary))
    if manifest.qdrant and manifest.qdrant.collections:
        screen.line()
        screen.table(
            ("COLLECTION", "SHARDS", "POINTS", "SIZE", "ALIASES"),
            [
                (c.name, len(c.shards), f"{c.points:,}", size(c.bytes), " ".join(c.aliases))
                for c in manifest.qdrant.collections
            ],
            right=("SHARDS", "POINTS", "SIZE"),
        )


def _facts(
    screen: Screen, manifest: Manifest, summary: BackupSummary | None
) -> list[tuple[str, object]]:
    mark, patch, facts = manifest.watermark, manifest.patch, manifest.postgres.facts
    numbers = manifest.statistics
    verified = summary.verified if summary else None
    return [
        ("taken", f"{screen.moment(manifest.created_at)} in {duration(numbers.seconds)}"),
        ("by", f"{manifest.host}, vbackup {manifest.vbackup_version}"),
        (
            "locked",
            format_time(summary.locked_until) if summary and summary.locked_until else None,
        ),
        ("tags", " ".join(f"{k}={v}" for k, v in sorted(manifest.tags.items())) or None),
        ("pinned", "yes" if summary and summary.pinned else None),
        (
            "verified",
            _verdict(screen, verified.at, verified.level, verified.ok) if verified else "never",
        ),
        ("watermark", f"{mark.lsn} at {screen.moment(mark.at)}"),
        ("strategy", f"{mark.strategy} ({mark.exactness}), paused {mark.writers_paused_ms} ms"),
        ("postgres", f"{facts.database}, {size(manifest.postgres.bytes)}, {facts.server_version}"),
        ("qdrant", manifest.qdrant.server_version if manifest.qdrant else "none"),
        ("links", ", ".join(link.name for link in manifest.links) or "none"),
        (
            "patch",
            f"{patch.upserts:,} upserts, {patch.deletes:,} deletes, {patch.reembed:,} to re-embed",
        ),
        ("read", size(numbers.bytes_read)),
        ("uploaded", f"{size(numbers.bytes_uploaded)}, {numbers.chunks_reused:,} chunks reused"),
        ("own size", size(summary.bytes_unique) if summary else None),
    ]


def _verdict(screen: Screen, at: datetime, level: str, ok: bool) -> str:
    return f"{level} {'ok' if ok else 'FAILED'}, {screen.moment(at)}"
