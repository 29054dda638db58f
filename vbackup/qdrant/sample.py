"""A few points at random, with their payloads: enough to tell what they refer to."""

from __future__ import annotations

from vbackup.errors import Refused
from vbackup.model.blocks import Point
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.limits import Limits
from vbackup.qdrant.projection import Record, decode_page, decode_sample
from vbackup.qdrant.rest import collection_path


def sample(cluster: Cluster, collection: str, count: int) -> list[Point]:
    """Up to `count` points without their vectors, spread over all shards; the first ones in id
    order where the server cannot draw at random. Raises NotFound, Unreachable."""
    limits = Limits.of(cluster.info(collection)["config"])
    body: dict[str, object] = {"limit": min(count, limits.page), "with_payload": True}
    try:
        drawn = cluster.ask(
            "POST",
            collection_path(collection, "points", "query"),
            body | {"query": {"sample": "random"}},
        )
    except Refused:  # a server before 1.11
        scrolled = cluster.ask("POST", collection_path(collection, "points", "scroll"), body)
        return _points(decode_page(scrolled).result.points)
    return _points(decode_sample(drawn).result.points)


def _points(records: list[Record]) -> list[Point]:
    return [Point(record.id, None, record.payload or {}) for record in records]
