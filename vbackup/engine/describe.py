"""What a backup did, as parts of its manifest."""

from __future__ import annotations

from collections.abc import Sequence

from vbackup.engine.links import Target
from vbackup.engine.watermark import Chosen
from vbackup.model.manifest import (
    CollectionPart,
    DumpArtifact,
    Exactness,
    PostgresPart,
    QdrantPart,
    ShardPart,
    WatermarkRecord,
)
from vbackup.ports import PointStoreFacts, RecordSource


def watermark(chosen: Chosen, targets: Sequence[Target], *, alone: bool = False) -> WatermarkRecord:
    """The chosen snapshot, and how exact the pair is at it (docs/guarantees.md).

    `alone`: there is no other store whose state could be another than the snapshot's."""
    return WatermarkRecord(
        strategy=chosen.strategy,
        snapshot=chosen.watermark.snapshot,
        lsn=chosen.watermark.lsn,
        at=chosen.watermark.at,
        writers_paused_ms=chosen.paused_ms,
        exactness="exact" if alone else _exactness(targets),
        base=chosen.base,
        lead_in_seconds=chosen.lead_in,
        candidates=chosen.candidates,
        lost=chosen.lost,
        timeline=chosen.watermark.timeline,
        restore_point=chosen.restore_point,
        notes=chosen.notes,
    )


def _exactness(targets: Sequence[Target]) -> Exactness:
    if not targets:
        return "unlinked"
    return "exact" if all(target.link.exact for target in targets) else "best-effort"


def postgres(records: RecordSource, dumps: Sequence[DumpArtifact]) -> PostgresPart:
    """The database and its archives."""
    return PostgresPart(
        facts=records.facts(),
        client_version=records.client_version,
        dumps=tuple(dumps),
        bytes=sum(dump.artifact.length for dump in dumps),
    )


def qdrant(store: PointStoreFacts, shards: Sequence[ShardPart]) -> QdrantPart:
    """The collections; `shards` come in the order in which `store` lists them."""
    by_collection: dict[str, list[ShardPart]] = {}
    refs = [shard for facts in store.collections for shard in facts.shards]
    for ref, part in zip(refs, shards, strict=True):
        by_collection.setdefault(ref.collection, []).append(part)
    return QdrantPart(
        server_version=store.server_version,
        nodes=len(store.nodes),
        collections=tuple(
            CollectionPart(
                name=facts.name,
                config=facts.config,
                payload_schema=facts.payload_schema,
                aliases=facts.aliases,
                shards=tuple(by_collection.get(facts.name, [])),
                points=facts.points,
                bytes=sum(part.artifact.length for part in by_collection.get(facts.name, [])),
                custom_sharding=facts.custom_sharding,
            )
            for facts in store.collections
        ),
    )
