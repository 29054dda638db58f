"""JSON documents that more than one command prints (contract: Output)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.model.finding import LinkReport
    from vbackup.model.manifest import CollectionPart, Manifest


def backup_document(manifest: Manifest) -> dict[str, object]:
    """What `backup` and `show` say of one backup."""
    mark, numbers = manifest.watermark, manifest.statistics
    facts = manifest.postgres.facts
    return {
        "id": manifest.id,
        "watermark": {
            "lsn": mark.lsn,
            "snapshot": mark.snapshot,
            "at": mark.at,
            "strategy": mark.strategy,
            "exactness": mark.exactness,
            "candidates": mark.candidates,
            "lost": mark.lost,
            "notes": mark.notes,
        },
        "postgres": {
            "database": facts.database,
            "server_version": facts.server_version,
            "client_version": manifest.postgres.client_version,
            "system_identifier": facts.system_identifier,
            "bytes": manifest.postgres.bytes,
        },
        "qdrant": {
            "server_version": manifest.qdrant.server_version,
            "nodes": manifest.qdrant.nodes,
            "collections": [_collection(part) for part in manifest.qdrant.collections],
        }
        if manifest.qdrant
        else None,
        "patch": {
            "upserts": manifest.patch.upserts,
            "deletes": manifest.patch.deletes,
            "reembed": manifest.patch.reembed,
            "reasons": manifest.patch.reasons,
        },
        "writers_paused_ms": mark.writers_paused_ms,
        "bytes_read": numbers.bytes_read,
        "bytes_uploaded": numbers.bytes_uploaded,
        "chunks_new": numbers.chunks_new,
        "chunks_reused": numbers.chunks_reused,
        "seconds": round(numbers.seconds, 3),
    }


def link_document(report: LinkReport) -> dict[str, object]:
    """The counts of one link (contract: `reconcile`)."""
    return {
        "name": report.name,
        "rows": report.rows,
        "points": report.points,
        "missing": report.missing,
        "orphans": report.orphans,
        "stale": report.stale,
        "ahead": report.ahead,
        "not_live": report.not_live,
        "wrong_count": report.wrong_count,
        "duplicates": report.duplicates,
        "no_reference": report.no_reference,
        "expected_reembed": report.expected_reembed,
        "healed": report.healed,
        "clean": report.clean,
        "warnings": report.warnings,
    }


def reconcile_document(result: ReconcileResult) -> dict[str, object]:
    """What `reconcile` says, and `restore` about its own reconcile (contract: `reconcile`)."""
    return {
        "links": [link_document(report) for report in result.reports],
        "clean": result.clean,
        "warnings": result.warnings,
        "seconds": round(result.seconds, 3),
    }


def _collection(part: CollectionPart) -> dict[str, object]:
    return {
        "name": part.name,
        "shards": len(part.shards),
        "points": part.points,
        "bytes": part.bytes,
        "aliases": part.aliases,
    }
